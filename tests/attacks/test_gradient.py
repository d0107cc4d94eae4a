"""FGSM, PGD and C&W against closed forms, and what evaluation adds: any iterate, restarts, streams per sample."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import (
    APGD,
    CW,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    Restarted,
    SearchAttack,
    SearchState,
    draw_start,
    initial_fields,
)
from sparring.errors import BadInput
from sparring.losses import cross_entropy, margin
from sparring.randomness import SampleStreams
from sparring.threat import Budget, Threat
from tests.attacks.harness import (
    LINF,
    SHAPE,
    Curved,
    Linear,
    Window,
    assert_batches_do_not_matter,
    both_norms,
    pictures,
    seeded,
)


def two_classes() -> Linear:
    """Class 1 wins by far everywhere."""
    return Linear((0.0, 8.0), true=1, rival=0)


def five_classes() -> Linear:
    """Class 2 wins by far, class 4 comes next, the others are hopeless: their softmax is below 1e-35."""
    return Linear((-100.0, -100.0, 8.0, -100.0, 0.0), true=2, rival=4)


def worst_margin(model: Linear, x: Tensor, threat: Threat) -> Tensor:
    """max_delta of z_rival - z_true (B,): its value at x, plus the radius times the dual norm of w_rival - w_true."""
    dual = model.slope().abs().sum() if threat.norm == "Linf" else model.slope().norm()
    logits = model(x)
    return (logits[:, model.rival] - logits[:, model.true] + threat.eps * dual).detach()


SLOW_BUT_EXACT = 150  # steps; an L2 iterate turns to the right direction by a factor 0.8 a step


@both_norms
@pytest.mark.parametrize("make", [two_classes, five_classes])
@pytest.mark.parametrize(
    "attack",
    [FGSM(), PGD(steps=SLOW_BUT_EXACT), PGD(steps=SLOW_BUT_EXACT, objective="margin"), CW(steps=SLOW_BUT_EXACT)],
    ids=["FGSM", "PGD", "PGD, margin", "CW"],
)
def test_the_attacks_reach_the_optimum_of_a_linear_network(attack: Attack, make, threat: Threat) -> None:
    model, x = make(), pictures(6, 0.3, 0.7)
    y = torch.full((6,), model.true)
    adversarial = attack(model, x, y, threat, generator=seeded(5))
    assert (model(adversarial).argmax(1) == y).all()  # a sample that failed earlier would rest there
    best = worst_margin(model, x, threat)
    torch.testing.assert_close(margin(model(adversarial), y), best, rtol=0, atol=1e-11)
    torch.testing.assert_close(cross_entropy(model(adversarial), y), nn.functional.softplus(best), rtol=1e-8, atol=0)
    torch.testing.assert_close(adversarial - x, (threat.eps * model.direction(threat)).expand_as(x), rtol=0, atol=1e-11)


def test_the_attacks_reach_the_optimum_where_the_box_binds() -> None:
    model, x = five_classes(), pictures(6)
    x[0], x[1] = 0, 1
    y = torch.full((6,), 2)
    best = (x + LINF.eps * model.direction(LINF)).clamp(0, 1)
    for attack in (FGSM(), PGD(steps=10), CW(steps=10)):
        adversarial = attack(model, x, y, LINF, generator=seeded(5))
        torch.testing.assert_close(adversarial, best, rtol=0, atol=1e-15)


@both_norms
def test_a_training_attack_takes_radii_step_sizes_and_steps_per_sample(threat: Threat) -> None:
    model, x = five_classes(), pictures(4, 0.3, 0.7)
    eps, alpha = torch.tensor([0.05, 0.1, 0.15, 0.2]).double(), torch.tensor([0.02, 0.03, 0.04, 0.3]).double()
    budget = Budget(eps, alpha, torch.tensor([1, 2, 9, 1]), rounds=9)
    for attack in (PGD(start="zero"), CW(start="zero")):
        delta = attack.run(model, x, attack.objective_for(torch.full((4,), 2)), threat, budget=budget)
        reached = torch.tensor([0.02, 0.06, 0.15, 0.2]).double()
        worst = reached.view(-1, 1, 1, 1) * model.direction(threat)
        torch.testing.assert_close(delta, worst, rtol=0, atol=1e-11)


def test_the_margin_climbs_against_the_strongest_rival_only() -> None:
    """Cross-entropy climbs against a mixture of all rivals."""
    model, x = Linear((0.0, 0.0, 0.0), true=2, rival=0), pictures(8, 0.3, 0.7)
    with torch.no_grad():
        model.bias -= model(x).mean(0) - torch.tensor([0, 0, 4])  # two equal rivals, now this one ahead, now that
    y = torch.full((8,), 2)
    logits = model(x).detach()
    weights = model.weight.detach()
    rival = logits[:, :2].argmax(1)
    assert rival.unique().numel() == 2
    strongest = (weights[rival] - weights[2]).sign()
    mixture = torch.einsum("bc,cijk->bijk", logits.softmax(1), weights) - weights[2]
    assert (strongest != mixture.sign()).any()
    torch.testing.assert_close(CW(steps=1, alpha=LINF.eps, start="zero")(model, x, y, LINF) - x, 0.1 * strongest)
    torch.testing.assert_close(FGSM()(model, x, y, LINF) - x, 0.1 * mixture.sign())


def test_the_default_step_is_a_quarter_of_the_radius() -> None:
    model, x = two_classes(), pictures(2, 0.3, 0.7)
    delta = PGD(steps=3, start="zero")(model, x, torch.ones(2, dtype=torch.int64), LINF) - x
    torch.testing.assert_close(delta, (0.075 * model.direction(LINF)).expand_as(x))


# Starts ----------------------------------------------------------------------------------------------------------------


def test_the_zero_start_is_zero() -> None:
    assert torch.equal(draw_start("zero", pictures(3), LINF, 0.1), torch.zeros(3, *SHAPE).double())


@both_norms
@pytest.mark.parametrize("streams", [False, True])
def test_the_uniform_start_fills_the_ball(threat: Threat, streams: bool) -> None:
    x = torch.full((2000, 1, 1, 2), 0.5).double()
    generator = SampleStreams(0, torch.arange(2000)) if streams else seeded(7)
    start = draw_start("uniform", x, threat, 0.1, generator)
    size = threat.size(start) / 0.1
    assert size.max() <= 1 + 1e-12
    # In two dimensions a share of r^2 of either ball lies within the radius r.
    for radius in (0.3, 0.6, 0.9):
        assert (size <= radius).double().mean() == pytest.approx(radius**2, abs=0.04)
    assert start.mean((0, 1, 2)).abs().max() < 0.01


@both_norms
@pytest.mark.parametrize("kind", ["uniform", "bernoulli"])
def test_starts_stay_in_each_sample_s_ball_and_in_the_box(kind, threat: Threat) -> None:
    x = pictures(50)
    x[:10], x[10:20] = 0, 1
    eps = torch.linspace(0.01, 0.5, 50).double()
    start = draw_start(kind, x, threat, eps, seeded(8))
    assert (threat.size(start) <= eps + 1e-12).all()
    assert (threat.size(start)[20:] > 0.1 * eps[20:]).all()
    assert (x + start).min() >= 0
    assert (x + start).max() <= 1


def test_the_normal_start_has_the_deviation_of_trades_and_is_not_clipped() -> None:
    x = torch.zeros(200, *SHAPE).double()
    start = draw_start("normal", x, LINF, 1e-4, seeded(9))
    assert start.std().item() == pytest.approx(1e-3, rel=0.05)
    assert start.mean().item() == pytest.approx(0, abs=1e-4)
    assert start.abs().max() > 3e-3  # far outside a ball of 1e-4
    assert start.min() < -3e-3  # and, at x = 0, outside the box


def test_the_bernoulli_start_is_plus_or_minus_the_radius() -> None:
    start = draw_start("bernoulli", torch.full((100, *SHAPE), 0.5).double(), LINF, 0.1, seeded(10))
    torch.testing.assert_close(start.abs(), torch.full_like(start, 0.1))
    assert (start > 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    at_zero = draw_start("bernoulli", torch.zeros(100, *SHAPE).double(), LINF, 0.1, seeded(10))
    torch.testing.assert_close(at_zero, start.clamp(min=0))


@pytest.mark.parametrize("kind", ["zero", "uniform", "normal", "bernoulli"])
def test_an_attack_begins_at_its_start(kind) -> None:
    """With steps too small to matter it ends there, too."""
    x = pictures(4, 0.3, 0.7)
    attack = PGD(steps=1, alpha=1e-12, start=kind)
    delta = attack.run(Curved(), x, lambda logits: logits[:, 0], LINF, generator=seeded(11))
    torch.testing.assert_close(delta, draw_start(kind, x, LINF, 0.1, seeded(11)), rtol=0, atol=2e-12)


@both_norms
def test_a_start_fills_the_radius_of_each_sample_s_budget(threat: Threat) -> None:
    x, eps = pictures(40, 0.45, 0.55), torch.linspace(0.01, 0.4, 40).double()
    attack = PGD(steps=1)
    start = attack.run(
        Curved(), x, attack.objective_for(torch.zeros(40, dtype=torch.int64)), threat, budget=Budget(eps, 1, 0)
    )
    assert ((threat.size(start) / eps > 0.6) & (threat.size(start) / eps <= 1 + 1e-12)).all()


def test_a_given_start_replaces_the_configured_one() -> None:
    x, start = pictures(4, 0.3, 0.7), torch.full((4, *SHAPE), 0.03).double()
    delta = PGD(steps=1, alpha=1e-12).run(Curved(), x, lambda logits: logits[:, 0], LINF, start=start)
    torch.testing.assert_close(delta, start, rtol=0, atol=2e-12)


# Any iterate -----------------------------------------------------------------------------------------------------------


def test_a_sample_that_fails_at_an_earlier_iterate_counts_as_fooled() -> None:
    """Steps of 0.05 from 0.5: wrong at 0.6, right again at 0.65 and at the end, 0.7."""
    model, x, y = Window(0.58, 0.62), torch.full((1, 1, 1, 1), 0.5).double(), torch.tensor([0])
    threat, attack = Threat("Linf", 0.2), PGD(steps=5, alpha=0.05, start="zero")
    last = x + attack.run(model, x, attack.objective_for(y), threat)
    assert last.item() == pytest.approx(0.7)
    assert model(last).argmax(1) == y

    adversarial = attack(model, x, y, threat)
    assert adversarial.item() == pytest.approx(0.6)
    assert model(adversarial).argmax(1) != y


def test_the_start_is_an_iterate_too() -> None:
    x, y = torch.full((1, 1, 1, 1), 0.6).double(), torch.tensor([0])
    for attack in (FGSM(), PGD(steps=5, alpha=0.05, start="zero"), CW(steps=5, alpha=0.05, start="zero")):
        assert torch.equal(attack(Window(0.58, 0.62), x, y, Threat("Linf", 0.2)), x)


# The ball and the box --------------------------------------------------------------------------------------------------


def test_a_normal_start_that_fools_at_once_is_in_the_ball() -> None:
    """Nothing projects it if the sample takes no step."""
    x = pictures(6)
    y = Curved()(x).argmin(1)
    threat = Threat("Linf", 5e-4)
    adversarial = PGD(steps=1, start="normal")(Curved(), x, y, threat, generator=seeded(1))
    assert threat.size(adversarial - x).max() <= threat.eps + 1e-6


# Streams, restarts and the record --------------------------------------------------------------------------------------


@both_norms
@pytest.mark.parametrize(
    "attack",
    [PGD(steps=4), PGD(steps=4, start="normal"), PGD(steps=4, start="bernoulli"), Restarted(PGD(steps=2), 3)],
    ids=["uniform", "normal", "bernoulli", "restarts"],
)
def test_an_adversarial_image_depends_on_its_own_index_and_not_on_its_batch(attack: Attack, threat: Threat) -> None:
    model, x = Curved(), pictures(64)
    assert_batches_do_not_matter(attack, model, x, threat, atol=1e-11)


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=3), CW(steps=3), Restarted(PGD(steps=3), 2)])
def test_attacks_work_under_no_grad(attack: Attack) -> None:
    model, x, y = Curved(), pictures(8), torch.arange(8) % 4
    expected = attack(model, x, y, LINF, generator=seeded(1))
    with torch.no_grad():
        assert torch.equal(attack(model, x, y, LINF, generator=seeded(1)), expected)
    assert not expected.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@dataclass(frozen=True)
class Scripted(SearchAttack):
    """Fools the images whose first pixel is listed for this attempt, by turning them to 1 - attempt / 100."""

    script: tuple[tuple[float, ...], ...]
    calls: list[tuple[list[float], SampleStreams]] = field(default_factory=list)

    @property
    def max_steps(self) -> int:
        return 1

    def init(self, x, y, clean, attempt, streams, threat) -> SearchState:
        self.calls.append((x.flatten().tolist(), streams))
        attempt = streams.stage % 10
        fooled = torch.isin(x, torch.tensor(self.script[attempt]))
        return SearchState(**initial_fields(x, y, torch.where(fooled, 1 - attempt / 100, x + 0.01)))

    def step(self, counted, state, threat) -> SearchState:
        return state

    def describe(self, threat):
        return {"restarts": 1}


class Bright(nn.Module):
    """Class 0 below 0.9, class 1 from there on."""

    def forward(self, x: Tensor) -> Tensor:
        bright = (x[:, 0, 0, 0] >= 0.9).to(x.dtype)
        return torch.stack([1 - bright, bright], 1)


ANYWHERE = Threat("Linf", "99/100")


def test_restarts_keep_each_first_success_and_attack_the_survivors_only() -> None:
    x = torch.tensor([0.125, 0.25, 0.375, 0.5]).view(4, 1, 1, 1)
    scripted = Scripted(script=((0.25,), (0.5, 0.25), (0.125,)))
    streams = SampleStreams(5, torch.tensor([7, 8, 9, 10]), stage=20)
    adversarial = Restarted(scripted, 3)(Bright(), x, torch.zeros(4, dtype=torch.int64), ANYWHERE, generator=streams)

    torch.testing.assert_close(adversarial.flatten(), torch.tensor([0.98, 1.0, 0.385, 0.99]))
    attacked: dict[int, list[tuple[float, int]]] = {}
    for pixels, used in scripted.calls:
        assert used.seed == 5
        attacked.setdefault(used.stage, []).extend(zip(pixels, used.index.tolist(), strict=True))
    assert attacked == {
        20: [(0.125, 7), (0.25, 8), (0.375, 9), (0.5, 10)],
        21: [(0.125, 7), (0.375, 9), (0.5, 10)],
        22: [(0.125, 7), (0.375, 9)],
    }


def test_restarts_end_when_nobody_survives() -> None:
    x = torch.tensor([0.125, 0.25]).view(2, 1, 1, 1)
    scripted = Scripted(script=((0.125, 0.25),))
    Restarted(scripted, 5)(Bright(), x, torch.zeros(2, dtype=torch.int64), ANYWHERE)
    assert len(scripted.calls) == 1


def test_restarts_start_elsewhere_each_time_and_help() -> None:
    model, x = Curved(), pictures(300)
    y = model(x).argmax(1)
    streams, threat = SampleStreams(0, torch.arange(300)), Threat("Linf", 0.03)

    def survivors(attack: Attack) -> Tensor:
        return model(attack(model, x, y, threat, generator=streams)).argmax(1) == y

    once, often = survivors(PGD(steps=1)), survivors(Restarted(PGD(steps=1), 8))
    assert torch.equal(survivors(Restarted(PGD(steps=1), 1)), once)
    assert not (often & ~once).any()
    assert often.sum() < once.sum()


def test_an_attack_says_what_a_record_must_state() -> None:
    threat = Threat("Linf", "8/255")
    assert FGSM().describe(threat) == {
        "steps": 1,
        "alpha": "8/255",
        "start": "zero",
        "restarts": 1,
        "objective": "ce",
    }
    assert PGD(steps=20).describe(threat) == {
        "steps": 20,
        "alpha": "2/255",
        "start": "uniform",
        "restarts": 1,
        "objective": "ce",
    }
    assert CW(steps=30, alpha="1/255", start="normal").describe(threat) == {
        "steps": 30,
        "alpha": "1/255",
        "start": "normal",
        "restarts": 1,
        "objective": "margin",
    }
    assert Restarted(PGD(steps=50), 10).describe(threat) == PGD(steps=50).describe(threat) | {"restarts": 10}


def test_efforts_that_make_no_sense_are_refused() -> None:
    for steps in (0, -1):
        with pytest.raises(BadInput, match=f"at least 1 step, not {steps}"):
            PGD(steps=steps)
    for alpha in ("0", "-1/255"):
        with pytest.raises(BadInput, match=f"alpha must be positive, not {alpha}"):
            PGD(alpha=alpha)
    with pytest.raises(BadInput, match="at least 1 restart, not 0"):
        Restarted(PGD(), 0)


# What is given ----------------------------------------------------------------------------------------------------------

X, Y = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(4)


@pytest.mark.parametrize("attack", [PGD(steps=2), FGSM(), APGD(steps=5), AutoAttack()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"threat": 0.1}, r"The threat is 0\.1: give the norm and the radius"),
        ({"y": Y + 100}, "Labels go from 100 to 103, but the model knows the classes 0 to 9"),
        ({"y": Y - 1}, "Labels go from -1 to 2"),
        ({"y": Y.float()}, r"labels of 4 images are torch\.float32 of shape \(4,\): give a tensor of int64"),
        ({"y": Y[:, None]}, r"torch\.int64 of shape \(4, 1\)"),
        ({"y": Y[:3]}, r"torch\.int64 of shape \(3,\)"),
        ({"y": [0, 1, 2, 3]}, "labels of 4 images are of type list"),
        ({"x": X.numpy()}, "The images are of type ndarray: give a tensor of floats"),
        ({"x": (X > 0.5).byte()}, r"The images are torch\.uint8 of shape \(4, 1, 4, 4\): give a tensor of floats"),
        ({"x": X[0]}, r"torch\.float32 of shape \(1, 4, 4\)"),
    ],
)
def test_a_called_attack_refuses_what_it_cannot_take(attack, changed: dict, said: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    with pytest.raises(BadInput, match=said):
        attack(**{"model": network, "x": X, "y": Y, "threat": Threat("Linf", 0.1)} | changed)


def test_a_training_attack_needs_a_threat() -> None:
    with pytest.raises(BadInput, match=r"The threat is 0\.1: give the norm and the radius"):
        PGD().run(nn.Identity(), X, lambda logits: logits.flatten(1).sum(1), 0.1)
