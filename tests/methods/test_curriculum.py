"""FAT, SAT and DART against a loop over single images, in float64, and what their rules must do to real attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.data import Batch
from sparring.errors import BadInput
from sparring.methods import AWP, CAT, DART, FAT, LAS, MEP, SAT, AdversarialTraining, Method, Standard
from sparring.schedule import Piecewise
from sparring.threat import Budget, Threat
from tests.methods import harness
from tests.methods.curricula import ALPHA, K, at, constantly, dart, mart, trades, trades_from_afar
from tests.methods.harness import L2, LINF, NO_LOSS, part, train_on
from tests.methods.mart import mart_loss
from tests.methods.reference import (
    EPS,
    Plain,
    assert_same,
    ball_and_box,
    batches,
    divergence,
    experienced,
    knowledge,
    network,
    pixel_gradient,
    set_up,
    smoothed_cross_entropy,
    uniform,
)

pytestmark = pytest.mark.usefixtures("double_precision")


# The methods that are wrapped, and their cards ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    """A method, where its attack starts, what it climbs, and its loss."""

    make: Callable[[], Method]
    start: Callable[[Tensor], Tensor]
    value: Callable[[Plain, Tensor, Tensor], Callable[[Tensor], Tensor]]  # plain, x, y -> logits -> ()
    loss: Callable[[nn.Module, Batch, Tensor], Tensor]


def _normal(x: Tensor) -> Tensor:
    """1e-3 N(0, 1), put into the box: the released code of FAT does that, the one of TRADES and MART does not."""
    return (x + 1e-3 * torch.randn(x.shape)).clamp(0, 1) - x


def _climbs_cross_entropy(plain: Plain, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: smoothed_cross_entropy(logits, y).sum()


def _climbs_divergence(plain: Plain, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    clean = plain.network(x).detach()
    return lambda logits: divergence(clean, logits).sum()


def _at_loss(model: nn.Module, batch: Batch, x_adv: Tensor) -> Tensor:
    return smoothed_cross_entropy(model(x_adv), batch.y).mean()


def _trades_loss(model: nn.Module, batch: Batch, x_adv: Tensor) -> Tensor:
    clean, adversarial = model(batch.x), model(x_adv)
    return smoothed_cross_entropy(clean, batch.y).mean() + 6 * divergence(clean, adversarial).mean()


INNER = {
    "AT": Inner(at, lambda x: uniform(x, EPS), _climbs_cross_entropy, _at_loss),
    "TRADES": Inner(trades, _normal, _climbs_divergence, _trades_loss),
    "MART": Inner(mart, _normal, _climbs_cross_entropy, mart_loss),
}
around_each = pytest.mark.parametrize("inner", INNER.values(), ids=INNER.keys())

# The rules of the cards: (x, start, y) of one image -> (x', logits at x', gradient at x') -> whether it stops ------------

Stops = Callable[[Tensor, Tensor, Tensor], Callable[[Tensor, Tensor, Tensor], bool]]


def friendly(tau: int) -> Stops:
    """Count tau misclassified iterates down to 0, and stop at the next one."""

    def begin(x: Tensor, start: Tensor, y: Tensor):
        left = [tau]

        def stops(count: int, x_adv: Tensor, logits: Tensor, gradient: Tensor) -> bool:
            if logits.argmax() == y:
                return False
            if left[0] == 0:
                return True
            left[0] -= 1
            return False

        return stops

    return begin


def not_too_wrong(gap: float) -> Stops:
    """psi = max_{j != y} p_j - p_y exceeds the gap."""

    def begin(x: Tensor, start: Tensor, y: Tensor):
        def stops(count: int, x_adv: Tensor, logits: Tensor, gradient: Tensor) -> bool:
            p = (logits.exp() / logits.exp().sum())[0].tolist()
            return max(p[j] for j in range(len(p)) if j != y) - p[int(y)] > gap

        return stops

    return begin


def converged(criterion: float, *, from_the_start: bool = False) -> Stops:
    """eps ||g||_1 - <x' - x_0, g> is at most the criterion, after a first step."""

    def begin(x: Tensor, start: Tensor, y: Tensor):
        origin = x + start if from_the_start else x

        def stops(count: int, x_adv: Tensor, logits: Tensor, gradient: Tensor) -> bool:
            return count > 0 and EPS * gradient.abs().sum() - ((x_adv - origin) * gradient).sum() <= criterion

        return stops

    return begin


def attacked(inner: Inner, plain: Plain, batch: Batch, stops: Stops) -> tuple[Tensor, list[int]]:
    """x' and the number of steps, one image after the other."""
    start, found, counts = inner.start(batch.x), [], []
    with plain.mode("eval"):
        for i in range(len(batch.y)):
            x, y, delta = batch.x[i : i + 1], batch.y[i : i + 1], start[i : i + 1]
            value, stop = inner.value(plain, x, y), stops(x, delta, y)
            x_adv, count = x + delta, 0
            while count < K:
                gradient = pixel_gradient(plain.network, x_adv, value)
                if stop(count, x_adv, plain.network(x_adv), gradient):
                    break
                x_adv, count = ball_and_box(x_adv + ALPHA * gradient.sign(), x, EPS), count + 1
            found.append(x_adv)
            counts.append(count)
    return torch.cat(found), counts


def holds_to_its_card(method: Method, inner: Inner, stops: Callable[[int], Stops]) -> list[int]:
    """A run of four epochs, each with a rule of its own; the numbers of steps."""
    method = set_up(method)
    subject, plain = experienced()
    taken = []
    for epoch in range(4):
        method.begin_epoch(epoch)
        counts = []
        for batch in batches(epoch)[:2]:
            torch.manual_seed(epoch)
            loss = train_on(method, subject, batch, epoch).loss

            torch.manual_seed(epoch)
            x_adv, steps = attacked(inner, plain, batch, stops(epoch))
            expected = inner.loss(plain.network, batch, x_adv)
            plain.descend(plain.gradients(expected))
            torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
            counts += steps
        assert method.metrics()["attack_steps"].item() == pytest.approx(sum(counts) / len(counts), abs=1e-12)
        taken += counts
    assert_same(subject, plain)
    return taken


# FAT -------------------------------------------------------------------------------------------------------------------


@around_each
def test_fat_steps_as_its_card_says_and_without_the_noise_that_the_released_code_adds_to_every_step(
    inner: Inner,
) -> None:
    """tau is 0, 1, 2, 2 in four epochs, and counts visits to misclassified iterates, in a row or not."""
    method = FAT(inner.make(), milestones=("1/4", "1/2"))
    taken = holds_to_its_card(method, inner, lambda epoch: friendly(min(epoch, 2)))
    assert set(taken) == set(range(K + 1))


class Signs(nn.Module):
    """One pixel whose class, 0 or 1, depends on which of given values it is nearest to; the gradient is always 1."""

    def __init__(self, values: list[float], classes: list[int]) -> None:
        super().__init__()
        self.values, self.classes = torch.tensor(values), torch.tensor(classes)

    def forward(self, x: Tensor) -> Tensor:
        pixel = x[:, 0, 0, 0]
        which = (pixel.detach()[:, None] - self.values).abs().argmin(1)
        sign = 2.0 * self.classes[which] - 1  # of class 1
        climbs = pixel - pixel.detach()
        return torch.stack([-5 * sign - climbs, 5 * sign + climbs], 1)


@pytest.mark.parametrize(("tau", "steps"), [(0, 1), (1, 3), (2, 4), (3, 6)])
def test_misclassified_iterates_count_wherever_they_lie_on_the_way(tau: int, steps: int) -> None:
    """Right, wrong, right, wrong, wrong, right: iterates 1, 3, 4 are wrong, and the sixth step has no check after it."""
    values = [0.1 * (k + 1) for k in range(7)]
    model = Signs(values, [0, 1, 0, 1, 1, 0, 1])
    attack = PGD(steps=6, alpha=0.1, start="zero", bn="eval")
    method = set_up(FAT(AdversarialTraining(attack), milestones=("0",) * tau), Threat("Linf", 0.9))
    batch = part(batches()[0], slice(1))
    batch = replace(batch, x=torch.full((1, 1, 1, 1), 0.1), y=torch.zeros(1, dtype=torch.int64))
    found = method.perturb(model, batch)
    assert found.steps.tolist() == [steps]
    assert found.delta.item() == pytest.approx(0.1 * steps)


@pytest.mark.parametrize("make", [at, lambda: replace(mart(), attack=at().attack)], ids=["AT", "MART"])
def test_with_tau_of_all_steps_fat_is_the_inner_method_bit_for_bit(make: Callable[[], Method]) -> None:
    wrapped, bare = set_up(FAT(make(), milestones=("0",) * K)), set_up(make())
    assert wrapped.bound(0) == K
    _trains_the_same(wrapped, bare)


def _trains_the_same(wrapped: Method, bare: Method) -> None:
    (one, _), (other, _) = experienced(), experienced()
    for step, batch in enumerate(batches()):
        for method, trained in ((wrapped, one), (bare, other)):
            torch.manual_seed(step)
            train_on(method, trained, batch)
    assert harness.identical(one.state_dict(), other.state_dict())
    assert wrapped.metrics()["attack_steps"] == K


@pytest.mark.parametrize(
    ("milestones", "changes"),
    [
        (("50/120", "90/120"), {0: 0, 49: 0, 50: 1, 89: 1, 90: 2, 119: 2}),
        (("20/120", "40/120", "60/120", "80/120"), {19: 0, 20: 1, 39: 1, 40: 2, 59: 2, 60: 3, 79: 3, 80: 4}),
        (("0.25", "1"), {29: 0, 30: 1, 119: 1}),
        ((), {0: 0, 119: 0}),
    ],
)
def test_tau_grows_at_its_milestones_exactly(milestones: tuple, changes: dict[int, int]) -> None:
    method = FAT(at(), milestones=milestones)
    method.setup(replace(harness.task(), epochs=120))
    found = {}
    for epoch in range(120):
        found[epoch] = method.bound(epoch)
    assert found == found | changes


def test_the_weaker_the_network_the_fewer_steps_fat_takes() -> None:
    """On real digits, after 32, 8, 2 and 0 epochs of clean training."""
    images = harness.batch_of(harness.digits(), slice(None))
    images = replace(images, x=images.x.double())
    steps, right = [], []
    for epochs in (32, 8, 2, 0):
        model = network()
        model.load_state_dict(knowledge(epochs))
        method = set_up(FAT(at()), Threat("Linf", 0.1))
        torch.manual_seed(0)
        method.commit(images, method.perturb(model, images), NO_LOSS)
        steps.append(method.metrics()["attack_steps"].item())
        right.append((model.eval()(images.x).argmax(1) == images.y).double().mean().item())
    assert all(better > worse + 0.05 for better, worse in pairwise(right)), right
    assert all(stronger > weaker + 0.1 for stronger, weaker in pairwise(steps)), steps


@around_each
@pytest.mark.parametrize("wrap", [FAT, SAT, dart], ids=["FAT", "SAT", "DART"])
def test_an_image_alone_is_attacked_as_in_its_batch(wrap, inner: Inner) -> None:
    """In evaluation mode; the noise is taken out, as it is drawn for the batch."""
    subject, _ = experienced()
    batch = batches()[0]
    method = set_up(wrap(inner.make()))
    start = inner.start(batch.x)
    attack = method.traits().attack
    together = _perturbed_from(start, method, attack, subject.network, batch)
    for i in range(len(batch.y)):
        one = slice(i, i + 1)
        alone = _perturbed_from(start[one], method, attack, subject.network, part(batch, one))
        torch.testing.assert_close(alone.delta[0], together.delta[i], rtol=0, atol=1e-10)
        assert alone.steps[0] == together.steps[i]
    assert len(together.steps.unique()) > 1


def _perturbed_from(start: Tensor, method: Method, attack: PGD, model: nn.Module, batch: Batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PGD, "initial", lambda *_: start)
        return method.perturb(model, batch)


# SAT -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [-0.2, 0.0, 0.3])
@around_each
def test_sat_steps_as_its_card_says(inner: Inner, gap: float) -> None:
    """In evaluation mode an image that has stopped stays as wrong as it is, so it could not go on if it were asked."""
    taken = holds_to_its_card(SAT(inner.make(), gap=constantly(gap)), inner, lambda epoch: not_too_wrong(gap))
    assert len(set(taken)) >= 3


def test_an_image_that_has_stopped_stays_even_where_the_others_change_what_the_network_says_of_it() -> None:
    """With BatchNorm in training mode the rule of the released code would let some go on."""
    attack = PGD(steps=8, alpha=ALPHA, start="zero", bn="train_frozen_stats")
    (subject, plain), resumed = experienced(), 0
    method = set_up(SAT(AdversarialTraining(attack), gap=constantly(0.0)))
    for batch in batches():
        found = method.perturb(subject.network, batch)
        own = nn.functional.one_hot(batch.y, 10).bool()
        x_adv, moving, counts = batch.x, torch.ones(len(batch.y), dtype=torch.bool), torch.zeros(len(batch.y))
        with plain.mode("train_frozen_stats"):
            for _ in range(8):
                p = plain.network(x_adv).softmax(1)
                lets = p.masked_fill(own, 0).amax(1) - p[own] <= 0
                resumed += (lets & ~moving).sum().item()
                moving, counts = moving & lets, counts + (moving & lets)
                climbs = _climbs_cross_entropy(plain, batch.x, batch.y)
                further = ball_and_box(
                    x_adv + ALPHA * pixel_gradient(plain.network, x_adv, climbs).sign(), batch.x, EPS
                )
                x_adv = torch.where(moving.view(-1, 1, 1, 1), further, x_adv)
        torch.testing.assert_close(batch.x + found.delta, x_adv, rtol=0, atol=1e-10)
        assert torch.equal(found.steps, counts)
    assert resumed > 0


@pytest.mark.parametrize("make", [at, lambda: replace(mart(), attack=at().attack)], ids=["AT", "MART"])
def test_with_a_gap_of_one_sat_is_the_inner_method_bit_for_bit(make: Callable[[], Method]) -> None:
    _trains_the_same(set_up(SAT(make(), gap=constantly(1.0))), set_up(make()))


def test_sat_s_gap_moves_with_the_epochs() -> None:
    """The default in four epochs: 0, 1/2, 1, 1."""
    subject, _ = experienced()
    batch = batches()[0]
    moving = set_up(SAT(at()))
    steps = []
    for epoch, gap in enumerate((0.0, 0.5, 1.0, 1.0)):
        found = []
        for method in (moving, set_up(SAT(at(), gap=constantly(gap)))):
            torch.manual_seed(0)
            found.append(method.perturb(subject.network, batch, method.phase(epoch, 0)))
        assert torch.equal(found[0].delta, found[1].delta)
        steps.append(found[0].steps.sum().item())
    assert steps[0] < steps[1] < steps[2] == steps[3] == K * len(batch.y)


def test_the_wider_the_gap_the_more_steps_sat_takes() -> None:
    assert _rises([_mean_steps(SAT(at(), gap=constantly(gap))) for gap in (-1.0, -0.4, 0.0, 0.4, 0.8, 1.0)], 0, K)


def _mean_steps(method: Method, epoch: int = 0) -> float:
    """Of a network that knows the digits, over all images, as the method reports it."""
    subject, _ = experienced()
    method = set_up(method)
    method.begin_epoch(epoch)
    for step, batch in enumerate(batches()):
        torch.manual_seed(step)
        method.commit(batch, method.perturb(subject.network, batch, method.phase(epoch, step)), NO_LOSS)
    return method.metrics()["attack_steps"].item()


def _rises(steps: list[float], first: float, last: float) -> bool:
    return steps == sorted(set(steps)) and (steps[0], steps[-1]) == (first, last)


# DART ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["image", "start"])
@pytest.mark.parametrize(
    ("inner", "threshold"),
    [
        (INNER["AT"], 2.0),
        (replace(INNER["TRADES"], make=trades_from_afar, start=INNER["AT"].start), 0.2),
        (INNER["TRADES"], 0.2),
        (INNER["MART"], 2.0),
    ],
    ids=["AT", "TRADES from afar", "TRADES", "MART"],
)
def test_dart_steps_as_its_card_says_and_without_the_undocumented_weights_of_the_released_code(
    inner: Inner, threshold: float, origin: str
) -> None:
    """c_t = threshold (1 - t / 3), at least 0, in epochs 0 to 3; the loss is the inner method's, a mean over the images."""
    method = DART(inner.make(), threshold=threshold, until="3/4", origin=origin)
    taken = holds_to_its_card(
        method,
        inner,
        lambda epoch: converged(max(threshold * (1 - epoch / 3), 0), from_the_start=origin == "start"),
    )
    assert len(set(taken)) >= 3


def test_dart_takes_the_first_step_however_converged_the_start_is() -> None:
    """Near the image FOSC of a divergence is next to nothing; and nothing exceeds a criterion of 1e9."""
    batch = batches()[0]
    for inner, threshold in ((trades(), 0.1), (at(), 1e9)):
        taken = set_up(DART(inner, threshold=threshold)).perturb(network(), batch).steps
        assert taken.min() == 1
    assert taken.max() == 1


def test_dart_s_loss_is_the_mean_of_the_cross_entropies_and_not_of_their_squares() -> None:
    """The released code weights each image by its own loss from the second epoch on."""
    method = set_up(DART(at()))
    model, batch = network(), batches()[0]
    for epoch in range(4):
        perturbation = method.perturb(model, batch, method.phase(epoch, 0))
        values = smoothed_cross_entropy(model(batch.x + perturbation.delta), batch.y)
        found = method.loss(model, batch, perturbation).total
        torch.testing.assert_close(found, values.mean(), rtol=0, atol=1e-10)
        assert abs(found - values.square().mean() / values.mean()) > 1e-3


def test_fosc_of_known_perturbations() -> None:
    """eps ||g||_1 - <delta, g> by hand, with a radius for each image, and eps ||g||_2 - <delta, g> in the L2 ball."""
    gradient = torch.tensor([[1.0, -2.0], [3.0, 0.0]]).view(1, 1, 2, 2).repeat(3, 1, 1, 1)
    delta = torch.tensor([[0.1, -0.1], [0.0, 0.1]]).view(1, 1, 2, 2) * torch.tensor([1.0, 0.0, -1.0]).view(3, 1, 1, 1)
    linf, l2 = set_up(DART(at())), set_up(DART(at()), L2)
    assert linf.fosc(delta, gradient, 0.1).tolist() == pytest.approx([0.6 - 0.3, 0.6, 0.6 + 0.3])
    eps = torch.tensor([0.1, 0.2, 0.3])
    assert linf.fosc(delta, gradient, eps).tolist() == pytest.approx([0.6 - 0.3, 1.2, 1.8 + 0.3])
    length = 14**0.5
    assert l2.fosc(delta, gradient, 0.5).tolist() == pytest.approx([length / 2 - 0.3, length / 2, length / 2 + 0.3])


@pytest.mark.parametrize("threat", [LINF, L2], ids=["Linf", "L2"])
def test_fosc_is_zero_at_the_best_perturbation_and_positive_elsewhere_in_the_ball(threat: Threat) -> None:
    method, generator = set_up(DART(at()), threat), torch.Generator().manual_seed(0)
    gradient = torch.randn(50, 1, 4, 4, generator=generator)
    best = float(threat.eps) * (
        gradient.sign() if threat is LINF else gradient / gradient.square().sum((1, 2, 3), keepdim=True).sqrt()
    )
    assert method.fosc(best, gradient, threat.eps).abs().max() < 1e-12
    elsewhere = threat.project(torch.randn(50, 1, 4, 4, generator=generator))
    assert (method.fosc(elsewhere, gradient, threat.eps) > 1e-3).all()


def test_dart_s_criterion_falls_to_zero_at_its_fraction_of_the_run() -> None:
    method = DART(at())
    method.setup(replace(harness.task(), epochs=120))
    found = []
    for epoch in range(120):
        found.append(method.bound(epoch))
    assert found == pytest.approx([0.5 * max(1 - t / 100, 0) for t in range(120)], abs=1e-15)
    assert found[99] > 0
    assert found[100:] == [0] * 20


def test_dart_takes_more_steps_as_its_criterion_falls() -> None:
    """On real digits and a fixed network; the box keeps all images from converging entirely."""
    steps = [_mean_steps(DART(at(), threshold=3.0, until="3/4"), epoch) for epoch in range(4)]
    assert steps == sorted(set(steps))
    assert 1 <= steps[0] < 1.1
    assert steps[-1] == K


def test_at_exactly_its_bound_sat_goes_on_and_dart_stops() -> None:
    """A network that says the same of every image: psi and FOSC are 0."""

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 10) + 0 * x.sum()

    batch = batches()[0]
    for method, steps in ((SAT(at(), gap=constantly(0.0)), K), (DART(at(), threshold=0.0), 1)):
        assert set_up(method).perturb(Flat(), batch).steps.tolist() == [steps] * len(batch.y)


# Combinations ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fat_outside", [True, False])
def test_of_two_curricula_the_first_to_stop_an_image_stops_it(fat_outside: bool) -> None:
    """And the mean number of steps is the number that were taken, whichever of the two reports it."""
    gap = constantly(0.3)
    wraps = [lambda inner: SAT(inner, gap=gap), lambda inner: FAT(inner, milestones=("0",))]
    innermost, outermost = wraps if fat_outside else reversed(wraps)
    method = outermost(innermost(at()))
    both, one, other = set(), friendly(1), not_too_wrong(0.3)

    def begin(x: Tensor, start: Tensor, y: Tensor):
        first, second = one(x, start, y), other(x, start, y)

        def stops(*where: Tensor) -> bool:
            stopped = first(*where), second(*where)
            both.add(stopped)
            return any(stopped)

        return stops

    holds_to_its_card(method, INNER["AT"], lambda epoch: begin)
    assert {(False, False), (True, False), (False, True)} <= both


def test_a_budget_replaces_radius_step_size_and_steps() -> None:
    """As LAS does: no image takes more steps than its budget, and none that has stopped goes on."""
    subject, _ = experienced()
    batch = batches()[0]
    steps = torch.arange(len(batch.y)) % (K + 1)
    eps, alpha = torch.linspace(0.02, 0.1, len(batch.y)), torch.linspace(0.05, 0.01, len(batch.y))
    found = set_up(FAT(at())).perturb(subject.network, batch, budget=Budget(eps, alpha, steps, rounds=K))
    free = set_up(FAT(at(), milestones=("0",) * K)).perturb(
        subject.network, batch, budget=Budget(eps, alpha, steps, rounds=K)
    )
    assert (found.steps <= steps).all()
    assert (found.steps < steps).any()
    assert torch.equal(free.steps, steps.double())
    assert (found.delta.abs().amax((1, 2, 3)) <= eps + 1e-12).all()


def test_awp_inside_a_curriculum_keeps_its_shift() -> None:
    """FAT(AWP(AT)) and AWP(FAT(AT)) are one method."""
    ends = []
    for method in (FAT(AWP(at(), gamma=0.02)), AWP(FAT(at()), gamma=0.02)):
        subject, _ = experienced()
        set_up(method)
        for step, batch in enumerate(batches()):
            torch.manual_seed(step)
            train_on(method, subject, batch)
        ends.append(subject.state_dict())
    assert harness.identical(*ends)


def test_the_mean_number_of_steps_is_the_epoch_s_and_survives_a_resume() -> None:
    subject, _ = experienced()
    method = set_up(FAT(at()))
    for batch in batches()[:2]:
        train_on(method, subject, batch)
    before = method.metrics()["attack_steps"]
    saved = method.state_dict()
    resumed = FAT(at())
    resumed.setup(harness.task())
    resumed.load_state_dict(saved)
    resumed.begin_epoch(0)
    assert resumed.metrics()["attack_steps"] == before
    resumed.begin_epoch(1)
    assert resumed.metrics()["attack_steps"].isnan()


# Refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [FAT, SAT, DART], ids=lambda wrap: wrap.__name__)
@pytest.mark.parametrize(
    "inner",
    [Standard(), CAT(), MEP(), AWP(Standard()), LAS(AdversarialTraining(PGD(steps=14)))],
    ids=lambda inner: type(inner).__name__,
)
def test_there_must_be_an_attack_to_end(wrap: type, inner: Method) -> None:
    with pytest.raises(
        BadInput, match=f"{wrap.__name__} ends attacks early, and {type(inner).__name__} has none to end"
    ):
        wrap(inner).setup(harness.task())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FAT(at(), milestones=("50",)), "milestone 50 is not a fraction of the run"),
        (lambda: FAT(at(), milestones=("1/2", "-1/2")), "milestone -1/2 is not a fraction"),
        (lambda: DART(at(), threshold=-1), "threshold must be at least 0, not -1"),
        (lambda: DART(at(), until="0"), "until is a fraction of the run in .0, 1., not 0"),
        (lambda: DART(at(), until="1.5"), "until is a fraction of the run in .0, 1., not 1.5"),
    ],
)
def test_values_that_cannot_be_are_refused(make: Callable[[], Method], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make()


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (Piecewise(((0, 0), (1, 1.5))), "not 1.125 as in epoch 3"),
        (Piecewise(((0, -1.5), (1, 0))), "not -1.5 as in epoch 0"),
    ],
)
def test_a_gap_that_is_no_difference_of_probabilities_is_refused_in_setup(gap: Piecewise, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        SAT(at(), gap=gap).setup(harness.task())
