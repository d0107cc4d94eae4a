"""LAS against a transcription of its card, whole steps in float64; its policy's mathematics; and that the policy learns."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.data import Batch
from sparring.errors import BadInput
from sparring.methods import (
    AWP,
    EP,
    LAS,
    MEP,
    SDI,
    TRADES,
    Actions,
    AdversarialTraining,
    Method,
    Perturbation,
    PolicyNetwork,
    Reward,
    Standard,
    Wrapper,
)
from sparring.methods.policy import Distribution
from sparring.threat import Budget, Threat
from tests.methods import harness
from tests.methods.harness import train_on
from tests.methods.reference import (
    CLASSES,
    EPS,
    LR,
    Plain,
    assert_same,
    ball_and_box,
    batches,
    learner,
    pixel_gradient,
    set_up,
    smoothed_cross_entropy,
)
from tests.methods.strategies import ACTIONS, OTHER, SMALL

ATTACK = PGD(steps=3, start="zero", bn="eval")


pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Strategies in a fixed order instead of random ones; the list is filled with those that were taken."""
    taken: list[dict[str, Tensor]] = []

    def sample(self: Distribution) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(len(taken))
        taken.append(
            {
                head: torch.randint(0, log_p.shape[1], log_p.shape[:1], generator=generator)
                for head, log_p in self.log_probabilities.items()
            }
        )
        return taken[-1]

    monkeypatch.setattr(Distribution, "sample", sample)
    return taken


# Fidelity --------------------------------------------------------------------------------------------------------------


def attacked(model: nn.Module, x: Tensor, y: Tensor, eps: Tensor, alpha: Tensor, steps: Tensor) -> Tensor:
    """Card 1.2, step 3, one image at a time, from the image itself; BatchNorm in evaluation mode."""
    found = []
    for i in range(len(x)):
        x_adv = x[i : i + 1]
        for _ in range(int(steps[i])):
            gradient = pixel_gradient(model, x_adv, lambda z, i=i: smoothed_cross_entropy(z, y[i : i + 1]).sum())
            x_adv = ball_and_box(x_adv + alpha[i] * gradient.sign(), x[i : i + 1], eps[i])
        found.append(x_adv)
    return torch.cat(found)


class PlainLAS:
    """The paper's step, and the released code's where `official`: its return is a scalar a batch, of accuracies."""

    def __init__(self, policy: nn.Module, kept: float, official: bool) -> None:
        self.target = Plain()
        self.policy = deepcopy(policy)
        self.kept, self.official = kept, official
        self.usual: Tensor | None = None

    def values(self, choice: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        eps, steps, alpha = (
            torch.tensor([float(v) for v in getattr(ACTIONS, head)])[choice[head]] for head in ("eps", "steps", "alpha")
        )
        return eps, alpha, steps

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, choice: dict[str, Tensor]) -> Tensor:
        model.eval()
        found = attacked(model, x, y, *self.values(choice))
        model.train()
        return found

    def update(self, x: Tensor, y: Tensor, choice: dict[str, Tensor]) -> None:
        x_adv = self.attack(self.target.network, x, y, choice)
        with torch.no_grad():
            l1 = smoothed_cross_entropy(self.target.network.eval()(x_adv), y)
        self.target.network.train()
        ahead = deepcopy(self.target.network)
        loss = smoothed_cross_entropy(ahead(x_adv), y, self.kept).mean()
        weights = list(ahead.parameters())
        with torch.no_grad():
            for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                w -= LR * (g + 5e-4 * w)
        everyone = torch.ones(len(x))
        if self.official:
            other = x
            for _ in range(2):  # BatchNorm in training mode, its statistics moving
                gradient = pixel_gradient(ahead, other, lambda z: smoothed_cross_entropy(z, y).sum())
                other = ball_and_box(other + 0.04 * gradient.sign(), x, EPS)
            ahead(other)  # the forward that compares the restarts, once for each of two equal ones
            other_again = x
            for _ in range(2):
                gradient = pixel_gradient(ahead, other_again, lambda z: smoothed_cross_entropy(z, y).sum())
                other_again = ball_and_box(other_again + 0.04 * gradient.sign(), x, EPS)
            ahead(other_again)
        ahead.eval()
        if not self.official:
            other = attacked(ahead, x, y, EPS * everyone, 0.04 * everyone, 2 * everyone)
        with torch.no_grad():
            l2, l3 = ahead(other), ahead(x)
        if self.official:
            right = (l2.argmax(1) == y).double(), (l3.argmax(1) == y).double()
            advantage = (l1 + 4 * right[0] + 2 * right[1]).mean().expand(len(x))
        else:
            returned = l1 - smoothed_cross_entropy(l2, y) - smoothed_cross_entropy(l3, y)
            usual = returned.mean() if self.usual is None else self.usual
            self.usual = 0.9 * usual + 0.1 * returned.mean()
            advantage = returned - usual
        self.policy.train()
        log_p = 0.0
        scores = self.policy(x)
        for head, first, last in (("eps", 0, 3), ("steps", 3, 6), ("alpha", 6, 8)):
            part = scores[:, first:last]
            log_p = log_p + (part - part.logsumexp(1, keepdim=True))[torch.arange(len(x)), choice[head]]
        weights = list(self.policy.parameters())
        gradients = torch.autograd.grad(-(advantage * log_p).mean(), weights)
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                w -= 0.01 * g * (1 / (norm + 1e-6)).clamp(max=1)
        self.policy.eval()

    def step(self, x: Tensor, y: Tensor, choice: dict[str, Tensor]) -> None:
        x_adv = self.attack(self.target.network, x, y, choice)
        loss = smoothed_cross_entropy(self.target.network(x_adv), y, self.kept).mean()
        self.target.descend(self.target.gradients(loss))


@pytest.mark.parametrize("official", [False, True], ids=["paper", "official"])
def test_a_step_is_the_card_s(official: bool, drawn: list) -> None:
    """Three steps at k = 2, with, without and with an update of the policy; the strategies are given."""
    smoothing = 0.2
    switches = {}
    if official:
        reward = Reward(measure="accuracy", l2_weight=4.0, l3_weight=2.0, other=replace(OTHER, bn="train"), restarts=2)
        switches = {"returns": "batch", "baseline": "none", "reward": reward}
    else:
        switches = {"reward": Reward(other=OTHER)}
    policy_network = replace(SMALL, optimizer="sgd", lr=0.01)
    method = set_up(
        LAS(
            AdversarialTraining(ATTACK, smoothing),
            actions=ACTIONS,
            policy_network=policy_network,
            interval=2,
            **switches,
        )
    )
    subject = learner()
    plain = PlainLAS(method.network, 1 - smoothing * (CLASSES - 1) / CLASSES, official)
    for step, batch in enumerate(batches()[:3]):
        drawn_before = len(drawn)
        train_on(method, subject, batch)
        choices = drawn[drawn_before:]
        assert len(choices) == (2 if step % 2 == 0 else 1)
        if step % 2 == 0:
            plain.update(batch.x, batch.y, choices[0])
        plain.step(batch.x, batch.y, choices[-1])
    assert_same(subject, plain.target)
    for own, expected in zip(method.network.parameters(), plain.policy.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-10)


def test_beta_is_chosen_for_each_image(drawn: list) -> None:
    """LAS-TRADES: CE(f(x), y) + (1/B) sum_i beta_i KL_i."""
    actions = replace(ACTIONS, beta=(1.0, 5.0, 9.0))
    inner = TRADES(beta=100.0, attack=PGD(steps=3, start="normal"))
    method = set_up(LAS(inner, actions=actions, policy_network=SMALL))
    model = harness.network().double()
    batch = batches()[0]
    perturbation = method.perturb(model, batch)
    beta = torch.tensor(actions.beta)[drawn[0]["beta"]]
    clean, adversarial = model(batch.x), model(batch.x + perturbation.delta)
    divergence = (clean.softmax(1) * (clean.log_softmax(1) - adversarial.log_softmax(1))).sum(1)
    expected = smoothed_cross_entropy(clean, batch.y).mean() + (beta * divergence).mean()
    fresh = harness.network().double()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(method.loss(model, batch, perturbation).total, expected, rtol=1e-6, atol=1e-9)


class _Given(Wrapper):
    """A method whose perturbation has been found already."""

    def __init__(self, inner: Method, delta: Tensor) -> None:
        self.inner, self.delta = inner, delta

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        return Perturbation(self.delta)


def test_awp_shifts_the_weights_of_the_step_ahead_too(drawn: list) -> None:
    """The look-ahead is what the target's own step would be: with AWP inside, the gradient at the perturbed weights."""
    with_awp = LAS(
        AWP(AdversarialTraining(ATTACK), gamma=0.1), actions=ACTIONS, policy_network=SMALL, reward=Reward(other=OTHER)
    )
    without = LAS(AdversarialTraining(ATTACK), actions=ACTIONS, policy_network=SMALL, reward=Reward(other=OTHER))
    batch = batches()[0]
    ends = []
    for method in (with_awp, without):
        drawn.clear()
        set_up(method).adapt(learner(), batch)
        ends.append(torch.cat([w.flatten() for w in method._ahead.network.parameters()]))
    subject = learner()
    perturbation = set_up(without)._attacked(subject.attack_model, batch, drawn[0], None)
    train_on(_Given(set_up(AWP(AdversarialTraining(ATTACK), gamma=0.1)), perturbation.delta), subject, batch)
    ahead = torch.cat([w.flatten() for w in subject.network.parameters()])  # the first step has no momentum yet
    torch.testing.assert_close(ends[0], ahead, rtol=0, atol=1e-12)
    assert (ends[1] - ahead).abs().max() > 1e-6


def test_the_target_is_not_touched_by_rewarding_strategies() -> None:
    """Neither weights nor running statistics (the released LAS-TRADES moves them twice)."""
    for inner in (AdversarialTraining(ATTACK), AWP(TRADES(attack=PGD(steps=3, start="normal")))):
        method = set_up(LAS(inner, actions=ACTIONS, policy_network=SMALL, reward=Reward(other=OTHER)))
        subject = learner()
        before = deepcopy(subject.network.state_dict())
        method.adapt(subject, batches()[0])
        assert harness.identical(before, subject.network.state_dict())


# The return ------------------------------------------------------------------------------------------------------------


def reward_terms(**switches: object) -> Tensor:
    torch.manual_seed(0)
    method = set_up(
        LAS(AdversarialTraining(ATTACK), actions=ACTIONS, policy_network=SMALL, reward=Reward(other=OTHER, **switches))
    )
    subject = learner()
    batch = batches()[0]
    torch.manual_seed(1)
    return method.reward_terms(subject, batch, method.strategies(batch.x).likeliest())


def test_terms_can_be_left_out() -> None:
    l1, l2, l3, _ = reward_terms()
    for terms, expected in {
        ("L1",): l1,
        ("L1", "L2"): l1 + l2,
        ("L1", "L3"): l1 + l3,
        ("L2", "L3"): l2 + l3,
    }.items():
        torch.testing.assert_close(reward_terms(terms=terms)[3], expected)
    torch.testing.assert_close(reward_terms(l2_weight=4.0, l3_weight=0.5)[3], l1 + 4 * l2 + 0.5 * l3)


def test_accuracies_are_ones_and_zeros() -> None:
    assert set(reward_terms(measure="accuracy")[1:3].unique().tolist()) <= {0.0, 1.0}


def test_hardness_can_be_the_inner_objective(drawn: list) -> None:
    inner = TRADES(beta=3.0, attack=PGD(steps=3, start="normal"))
    reward = Reward(terms=("L1",), hardness="objective")
    method = set_up(LAS(inner, actions=ACTIONS, policy_network=SMALL, reward=reward, returns="batch"))
    subject = learner()
    batch = batches()[0]
    torch.manual_seed(3)
    choice = {head: torch.zeros(len(batch.y), dtype=torch.long) for head in ("eps", "steps", "alpha")}
    found = method.reward_terms(subject, batch, choice)[0]
    torch.manual_seed(3)
    perturbation = method._attacked(subject.attack_model, batch, choice, None)
    model = subject.network.eval()
    torch.testing.assert_close(found, inner.loss(model, batch, perturbation).total.expand(len(batch.y)))


def test_restarts_keep_the_strongest_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batches()[0]
    model = harness.network().double().eval()
    starts = [torch.zeros_like(batch.x), 0.05 * torch.ones_like(batch.x), -0.05 * torch.ones_like(batch.x)]
    queue = list(starts)
    monkeypatch.setattr(PGD, "run", lambda self, *rest, **more: queue.pop(0))
    found = Reward(restarts=3)._other_attack(model, batch, harness.LINF)
    losses = torch.stack([smoothed_cross_entropy(model(batch.x + start), batch.y) for start in starts])
    assert len(losses.argmax(0).unique()) > 1
    for i, best in enumerate(losses.argmax(0).tolist()):
        torch.testing.assert_close(found[i], starts[best][i])


# The policy ------------------------------------------------------------------------------------------------------------


def distribution(rows: int = 20_000) -> tuple[Distribution, Tensor]:
    scores = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0])
    return Distribution.of(scores.expand(rows, 5), {"eps": 3, "steps": 2}), scores


def test_samples_have_their_probabilities() -> None:
    torch.manual_seed(0)
    policy, scores = distribution()
    choice = policy.sample()
    for head, part in (("eps", scores[:3]), ("steps", scores[3:])):
        shares = torch.bincount(choice[head], minlength=len(part)) / len(choice[head])
        torch.testing.assert_close(shares, part.softmax(0), rtol=0, atol=0.015)
    joint = ((choice["eps"] == 1) & (choice["steps"] == 1)).double().mean()
    assert joint.item() == pytest.approx((scores[:3].softmax(0)[1] * scores[3:].softmax(0)[1]).item(), abs=0.015)


def test_log_probabilities_and_entropies_are_torch_s() -> None:
    policy, scores = distribution(4)
    choice = {"eps": torch.tensor([0, 1, 2, 0]), "steps": torch.tensor([0, 1, 1, 0])}
    heads = [torch.distributions.Categorical(logits=scores[:3]), torch.distributions.Categorical(logits=scores[3:])]
    expected = heads[0].log_prob(choice["eps"]) + heads[1].log_prob(choice["steps"])
    torch.testing.assert_close(policy.log_probability(choice), expected)
    torch.testing.assert_close(policy.entropy(), torch.stack([head.entropy().expand(4) for head in heads]))
    assert policy.likeliest()["eps"].tolist() == [1] * 4


def test_the_update_is_an_unbiased_estimate_of_the_gradient_of_the_expected_return() -> None:
    """REINFORCE against the closed form: grad sum_a p(a) R(a), for one head, averaged over many draws, with and
    without a constant baseline.
    """
    torch.manual_seed(0)
    scores = torch.tensor([0.3, -0.2, 0.5], requires_grad=True)
    worth = torch.tensor([1.0, 4.0, 2.0])
    (exact,) = torch.autograd.grad((scores.softmax(0) * worth).sum(), scores)
    for baseline in (0.0, 2.5):
        policy = Distribution.of(scores.expand(200_000, 3), {"eps": 3})
        choice = policy.sample()
        gain = ((worth[choice["eps"]] - baseline) * policy.log_probability(choice)).mean()
        torch.testing.assert_close(torch.autograd.grad(gain, scores)[0], exact, rtol=0, atol=0.02)


def toy(steps: int, **switches: object) -> tuple[float, float]:
    """The probability of the largest radius before and after `steps` updates, on a target that stays as it is.

    The return is L1 alone: by construction the attack of the largest radius is worth most.
    """
    torch.set_default_dtype(torch.float32)
    actions = Actions(eps=("0.02", "0.05", "0.1", "0.2"), steps=(3,), alpha=("0.1",))
    options = {"policy_network": SMALL, "reward": Reward(terms=("L1",)), "interval": 1} | switches
    method = LAS(AdversarialTraining(PGD(steps=3, bn="eval")), actions=actions, **options)
    target = harness.bench(Standard())
    target.steps(0, 16)
    subject = harness.bench(method)
    subject.learner.load_state_dict(target.learner.state_dict())
    images = harness.batch_of(harness.digits(), slice(0, 64))

    def probability() -> float:
        method.network.train()  # by the batch's statistics: the running ones have to be found first
        with torch.no_grad():
            found = method.strategies(images.x).log_probabilities["eps"].exp()[:, -1].mean().item()
        method.network.eval()
        return found

    before = probability()
    for step in range(steps):
        torch.manual_seed(step)
        method.adapt(subject.learner, images)
    return before, probability()


def test_the_greedy_baseline_is_the_return_of_the_likeliest_strategies() -> None:
    switches = {"actions": ACTIONS, "policy_network": SMALL, "reward": Reward(other=OTHER)}
    method = set_up(LAS(AdversarialTraining(ATTACK), baseline="greedy", **switches))
    subject, batch = learner(), batches()[0]
    policy = method.strategies(batch.x)
    terms = method.reward_terms(subject, batch, policy.likeliest())
    torch.testing.assert_close(method._baseline(subject, batch, policy, terms + 1, method.phase(0, 0)), terms[3])


def test_the_policy_finds_the_best_action() -> None:
    before, after = toy(250)
    assert before < 0.4
    assert after > 0.8


def test_an_entropy_bonus_keeps_the_policy_open() -> None:
    """A large one outweighs the return: the policy moves towards the uniform one."""
    _, after = toy(120, entropy_bonus=100.0)
    assert after == pytest.approx(0.25, abs=0.05)


def test_with_the_released_settings_the_policy_does_not_learn() -> None:
    """A finding (docs/log.md): SGD at 1e-4 on a batch's mean return without a baseline leaves the policy where it was."""
    released = PolicyNetwork(network="smallconv", width=4, optimizer="sgd", lr=1e-4, clip=1.0)
    before, after = toy(250, policy_network=released, returns="batch", baseline="none")
    assert after == pytest.approx(before, abs=0.01)


# Controls and reports --------------------------------------------------------------------------------------------------


def test_the_uniform_policy_takes_every_action_alike_and_has_no_network() -> None:
    method = set_up(LAS(AdversarialTraining(ATTACK), actions=ACTIONS, policy="uniform"))
    subject = learner()
    for epoch in range(8):
        for batch in batches(epoch):
            train_on(method, subject, batch)
    report = method.metrics()
    assert method.network is None
    assert report["actions_eps"].tolist() == pytest.approx([1 / 3] * 3, abs=0.08)
    assert report["eps_entropy"].item() == pytest.approx(torch.log(torch.tensor(3.0)).item())
    assert report["eps_mean"].item() == pytest.approx(0.08, abs=0.01)
    assert report["reward"].isnan()


def test_the_fixed_policy_takes_the_mean_of_every_table() -> None:
    method = set_up(LAS(AdversarialTraining(ATTACK), actions=Actions(steps=(1, 2, 3)), policy="fixed"))
    batch = batches()[0]
    model = harness.network().double()
    expected = PGD(steps=2, alpha="3/255", start="zero").run(
        model, batch.x, lambda z: smoothed_cross_entropy(z, batch.y), Threat("Linf", "9/255")
    )
    torch.testing.assert_close(method.perturb(model, batch).delta, expected)


def test_a_report_counts_an_epoch_once_also_after_a_resume() -> None:
    method = set_up(
        LAS(AdversarialTraining(ATTACK), actions=ACTIONS, policy_network=SMALL, reward=Reward(other=OTHER), interval=2)
    )
    subject = learner()
    for batch in batches():
        train_on(method, subject, batch)
    method.begin_epoch(0)  # as a resumed run does
    assert method.counts.sum() == 3 * harness.BATCH * harness.STEPS_PER_EPOCH
    assert method.rewards[-1] == 2
    report = method.metrics()
    assert report["reward"].item() == pytest.approx(sum(report[f"reward_l{i}"].item() for i in (1, 2, 3)))
    method.begin_epoch(1)
    assert method.counts.sum() == 0


def test_an_inspection_tells_each_image_s_radius() -> None:
    method = set_up(LAS(AdversarialTraining(ATTACK), actions=ACTIONS, policy_network=SMALL))
    batch = batches()[0]
    found = method.inspect(batch)
    p = method.network(batch.x)[:, :3].softmax(1)
    table = torch.tensor([0.04, 0.08, 0.12])
    torch.testing.assert_close(found["eps_expected"], p @ table)
    torch.testing.assert_close(found["eps_likeliest"], table[p.argmax(1)])


def test_the_start_and_the_end_can_be_bound_to_other_radii() -> None:
    """Card 1.2: a start within 8/255 whatever eps_i; card 1.5: a final perturbation within the threat's radius."""
    wide = Actions(eps=("0.02", "0.3"), steps=(1, 2, 3), alpha=("0.1",))
    inner = AdversarialTraining(PGD(steps=3, bn="eval"))
    batch = batches()[0]
    model = harness.network().double()
    started = set_up(LAS(inner, actions=wide, policy_network=SMALL, init_radius=0.25)).perturb(model, batch)
    assert 0.24 < started.start.abs().max() <= 0.25
    own = set_up(LAS(inner, actions=wide, policy_network=SMALL)).perturb(model, batch)
    assert own.delta.abs().max() > EPS + 0.01
    clipped = set_up(LAS(inner, actions=wide, policy_network=SMALL, clip_final=True)).perturb(model, batch)
    assert clipped.delta.abs().max() <= EPS + 1e-12


@pytest.mark.parametrize("inner", [AdversarialTraining(ATTACK), TRADES(attack=PGD(steps=3, start="normal"))])
def test_finished_images_may_leave_the_batch(inner: Method, drawn: list) -> None:
    """With `compact` the perturbations are the same: in evaluation mode images do not influence each other."""
    batch = batches()[0]
    model = harness.network().double()
    found = []
    for compact in (False, True):
        drawn.clear()
        method = LAS(deepcopy(inner), actions=ACTIONS, policy_network=SMALL)
        method.setup(replace(harness.task(), compact=compact))
        method.begin_epoch(0)
        torch.manual_seed(5)
        found.append(method.perturb(model, batch).delta)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


# Refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "switches", "said"),
    [
        (MEP(), {}, "LAS chooses every image's attack, and MEP leaves it nothing to choose"),
        (EP(), {}, r"EP leaves it nothing to choose.* Traits\(attack=..., accepts_budget=True\)"),
        (SDI(), {}, "SDI leaves it nothing to choose"),
        (Standard(), {}, "Standard leaves it nothing to choose"),
        (AWP(MEP()), {}, "AWP leaves it nothing to choose"),
        (LAS(AdversarialTraining(ATTACK)), {}, "LAS leaves it nothing to choose"),
        (AdversarialTraining(ATTACK), {"actions": Actions()}, "allows 14 steps, more than the 3 of the inner attack"),
        (
            AdversarialTraining(ATTACK),
            {"actions": replace(ACTIONS, beta=(6.0,))},
            "beta needs an inner method that has one",
        ),
        (AdversarialTraining(ATTACK), {"actions": replace(ACTIONS, eps=("8",))}, "write 8/255, not 8"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_setup(inner: Method, switches: dict, said: str) -> None:
    method = LAS(inner, **({"actions": ACTIONS, "policy_network": SMALL} | switches))
    with pytest.raises(BadInput, match=said):
        method.setup(harness.task())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda inner: LAS(inner, interval=0), "interval of at least 1 step, not 0"),
        (lambda inner: LAS(inner, entropy_bonus=-1.0), "entropy_bonus >= 0, not -1.0"),
        (lambda inner: LAS(inner, init_radius="0"), "init_radius above 0, not 0"),
        (lambda inner: LAS(inner, reward=Reward(hardness="objective")), "needs returns: batch"),
        (lambda _: Reward(terms=()), "each once, not \\[\\]"),
        (lambda _: Reward(terms=("L1", "L1")), "each once"),
        (lambda _: Reward(l2_weight=-1.0), "l2_weight >= 0, not -1.0"),
        (lambda _: Reward(restarts=0), "restarts >= 1, not 0"),
        (lambda _: Actions(eps=()), "table of actions eps is empty"),
        (lambda _: Actions(steps=(0, 1)), "steps holds 0: all of its values must be positive"),
        (lambda _: Actions(alpha=("-1/255",)), "alpha holds -1/255"),
        (lambda _: Actions(beta=(-1.0,)), "beta holds -1.0"),
        (lambda _: PolicyNetwork(lr=0.0), "lr must be positive, not 0.0"),
        (lambda _: PolicyNetwork(clip=0.0), "clip must be positive, not 0.0"),
        (lambda _: PolicyNetwork(momentum=1.0), "momentum must lie in \\[0, 1\\), not 1.0"),
        (lambda _: PolicyNetwork(weight_decay=-1.0), "weight_decay must be at least 0, not -1.0"),
    ],
)
def test_values_that_cannot_be_are_refused(make, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make(AdversarialTraining(ATTACK))
