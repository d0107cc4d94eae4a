"""FAB against pyautoattack, step by step and by its verdicts, against closed forms, and what the pool relies on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from sparring import norms
from sparring.attacks.capacity import Capacity
from sparring.attacks.fab import FAB, FABState
from sparring.attacks.pool import Pool, SearchInputs
from sparring.attacks.search import CountedModel
from sparring.data import Data, load
from sparring.errors import BadInput
from sparring.randomness import SampleStreams
from sparring.threat import Threat
from tests.attacks.harness import (
    SHAPE,
    Curved,
    after,
    assert_a_step_is_quiet,
    opened,
    partly_wrong,
    pictures,
    seeded,
    streams,
)
from tests.syncs import NoHostSync

LINF, L2, L1 = Threat("Linf", "3/100"), Threat("L2", "1/10"), Threat("L1", "1/4")
all_norms = pytest.mark.parametrize("threat", [LINF, L2, L1], ids=["Linf", "L2", "L1"])
all_targets = pytest.mark.parametrize("targets", [9, None], ids=["targeted", "untargeted"])


def curved() -> Curved:
    """With five classes."""
    return Curved(5, scale=1.5)


class Linear(nn.Module):
    """Two classes; the difference of their logits is <w, x> - b."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        difference = (x * self.w).flatten(1).sum(1) - self.b
        return torch.stack([torch.zeros_like(difference), difference], 1)


class Recorded(nn.Module):
    """Remembers every batch of images that it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.asked = model, []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return self.model(x)


class Reader:
    """Digits, and what has learnt them: random tanh features and ridge regression, trained in closed form."""

    def __init__(self) -> None:
        images = load(Data(limit=512, validation=0)).train
        self.x, self.y = images.pixels.double() / 255, images.labels
        first = torch.randn(64, 150, generator=seeded(0), dtype=torch.float64) / 4
        offset = torch.randn(150, generator=seeded(1), dtype=torch.float64)
        features = torch.tanh(self.x.flatten(1) @ first + offset)
        ridge = features.T @ features + 0.1 * torch.eye(150, dtype=torch.float64)
        second = torch.linalg.solve(ridge, features.T @ nn.functional.one_hot(self.y, 10).double())
        self.model = _Features(first, offset, second).requires_grad_(False)


class _Features(nn.Module):
    def __init__(self, first: Tensor, offset: Tensor, second: Tensor) -> None:
        super().__init__()
        self.first, self.offset, self.second = nn.Parameter(first), nn.Parameter(offset), nn.Parameter(second)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.first + self.offset) @ self.second


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.fixture
def theirs_in_double(monkeypatch: pytest.MonkeyPatch, double_precision: None) -> None:
    """pyautoattack turns images and masks into `float()`s: for these tests that means float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def edged(count: int) -> Tensor:
    """Images, some of whose pixels are at the bounds."""
    return pictures(count, -0.2, 1.2).clamp(0, 1)


def walked(attack: FAB, model: nn.Module, state: FABState, threat: Threat, steps: int) -> FABState:
    for _ in range(steps):
        state = after(attack, state, model, threat)
    return state


# pyautoattack ----------------------------------------------------------------------------------------------------------


@all_norms
@pytest.mark.parametrize("rank", [1, 4, None], ids=["first target", "last target", "untargeted"])
@pytest.mark.parametrize("restart", [0, 1])
def test_every_point_of_a_walk_is_pyautoattack_s(threat, rank, restart, monkeypatch, theirs_in_double) -> None:
    """All images that the networks are asked about, in order: one for a gradient and one for a label a step.

    The random numbers of a restart are theirs.
    """
    steps, x = 30, edged(40)
    y = curved()(x).argmax(1)
    theirs = Recorded(curved())
    rival = FABAttack_PT(theirs, norm=threat.norm, n_iter=steps, eps=float(threat.eps))
    rival.target_class = None if rank is None else 1 + rank
    torch.manual_seed(0)
    rival.attack_single_run(x, y, use_rand_start=restart > 0, is_targeted=rank is not None)

    monkeypatch.setattr(norms, "uniform", lambda like, _: torch.rand(like.shape))
    monkeypatch.setattr(norms, "normal", lambda like, _: torch.randn(like.shape))
    torch.manual_seed(0)
    ours = Recorded(curved())
    attack = FAB(steps=steps, restarts=2, targets=None if rank is None else 4)
    attempt = restart if rank is None else (rank - 1) * 2 + restart
    state = opened(attack, curved(), x, y, threat, attempt)
    walked(attack, ours, state, threat, steps)

    expected = torch.stack(
        theirs.asked[1 if rank is None else 2 :]
    )  # less the clean images, for labels and for targets
    assert len(ours.asked) == len(expected) == 2 * steps
    torch.testing.assert_close(torch.stack(ours.asked), expected, rtol=0, atol=1e-8)
    assert (expected[1:] - expected[:-1]).abs().flatten(1).amax(1).min() > 1e-4  # it never came to rest


@all_norms
def test_other_settings_are_pyautoattack_s_too(threat: Threat, theirs_in_double: None) -> None:
    x = edged(40)
    y = curved()(x).argmax(1)
    theirs, ours = Recorded(curved()), Recorded(curved())
    rival = FABAttack_PT(theirs, norm=threat.norm, n_iter=10, eps=0.1, alpha_max=0.4, eta=1.3, beta=0.6)
    rival.attack_single_run(x, y)
    attack = FAB(steps=10, targets=None, alpha_max=0.4, eta=1.3, beta=0.6)
    walked(attack, ours, opened(attack, curved(), x, y, threat), threat, 10)
    torch.testing.assert_close(torch.stack(ours.asked), torch.stack(theirs.asked[1:]), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("norm", "eps", "targets"),
    [
        ("Linf", 0.03, 9),
        ("Linf", 0.06, 9),
        ("Linf", 0.09, 9),
        ("L2", 0.2, 9),
        ("L2", 0.4, 9),
        ("L2", 0.55, 9),
        ("Linf", 0.06, 3),
        ("L2", 0.4, 3),
        ("Linf", 0.06, None),
        ("Linf", 0.09, None),
        ("L2", 0.4, None),
        ("L2", 0.55, None),
        ("L1", 0.6, 9),
        ("L1", 1.5, 9),
        ("L1", 0.9, 3),
        ("L1", 1.5, None),
    ],
)
def test_the_verdicts_are_pyautoattack_s(norm, eps: float, targets, reader: Reader, theirs_in_double: None) -> None:
    """For 240 digits and all targets, one after the other, on those that are left."""
    x, y, model = reader.x[:240], reader.y[:240], reader.model
    rival = FABAttack_PT(
        model, norm=norm, n_iter=15, eps=eps, targeted=targets is not None, n_target_classes=targets or 9
    )
    expected = model(rival.perturb(x, y)).argmax(1) == y
    robust = model(FAB(steps=15, targets=targets)(model, x, y, Threat(norm, eps))).argmax(1) == y
    assert torch.equal(robust, expected)
    assert 0 < robust.sum() < 239


# Closed forms ----------------------------------------------------------------------------------------------------------


def linear(seed: int) -> tuple[Linear, Tensor, Tensor]:
    """A network, images well inside the box on both sides of its boundary, and their labels, in float64."""
    w = torch.randn(SHAPE, generator=seeded(seed), dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(30, *SHAPE, generator=seeded(seed + 1), dtype=torch.float64)
    model = Linear(w, (w * x).flatten(1).sum(1).mean())
    return model, x, model(x).argmax(1)


@all_norms
@all_targets
def test_the_first_point_is_the_projection_onto_a_linear_boundary(threat: Threat, targets: int | None) -> None:
    model, x, y = linear(20)
    attack = FAB(eta=1.0, targets=targets)
    state = opened(attack, model, x, y, threat)
    point = attack.step(CountedModel(model), state, threat).point
    w, excess = model.w.detach(), model(x).detach()[:, 1].view(-1, 1, 1, 1)
    steepest = w * (w.abs() == w.abs().max())
    ways = {"Linf": w.sign() / w.abs().sum(), "L2": w / w.square().sum(), "L1": steepest / steepest.square().sum()}
    way = -excess * ways[threat.norm]
    torch.testing.assert_close(point - x, way, rtol=0, atol=1e-13)
    assert set(y.tolist()) == {0, 1}


@all_norms
def test_the_first_point_overshoots_by_eta(threat: Threat) -> None:
    model, x, y = linear(22)

    def first(eta: float) -> FABState:
        attack = FAB(eta=eta)
        return attack.step(CountedModel(model), opened(attack, model, x, y, threat), threat)

    torch.testing.assert_close(first(1.3).point - x, 1.3 * (first(1.0).point - x))
    assert first(1.3).crossed.all()


@all_norms
def test_a_linear_network_is_fooled_exactly_where_the_ball_holds_its_boundary(threat: Threat) -> None:
    model, x, y = linear(24)
    w = model.w.detach()
    dual = {"Linf": w.abs().sum(), "L2": w.norm(), "L1": w.abs().max()}[threat.norm]
    distance = model(x).detach()[:, 1].abs() / dual
    for eps in distance.quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist():
        adversarial = FAB(steps=20)(model, x, y, Threat(threat.norm, eps))
        clear = (distance / eps - 1).abs() > 1e-3
        assert torch.equal((model(adversarial).argmax(1) != y)[clear], (distance < eps)[clear])


class Bent(nn.Module):
    """One pixel; class 1 from 0.58 on, although the slope at 0.5 lets one expect it from 0.6."""

    def forward(self, x: Tensor) -> Tensor:
        way = x[:, 0, 0, 0] - 0.5
        difference = way - 0.1 + (0.02 / 0.08**2) * way.square()
        return torch.stack([torch.zeros_like(difference), difference], 1)


def test_where_a_misclassified_point_goes_back_to_counts_only_once_it_has_been_a_point() -> None:
    """From 0.5 to 0.605, beyond the radius, and back to 0.5945, inside and still wrong: a step later there is better."""
    x, y, threat = torch.full((1, 1, 1, 1), 0.5).double(), torch.tensor([0]), Threat("Linf", 0.1)
    assert Bent()(x + 0.9 * 0.105).argmax(1) != y
    assert torch.equal(FAB(steps=1)(Bent(), x, y, threat), x)
    adversarial = FAB(steps=2)(Bent(), x, y, threat)
    assert Bent()(adversarial).argmax(1) != y
    assert 0.08 < (adversarial - x).item() < 0.085


# The order of attempts, starts -----------------------------------------------------------------------------------------


def test_all_restarts_of_a_target_come_before_the_next_target() -> None:
    x = edged(10)
    clean = curved()(x).detach()
    y = clean.argmax(1)
    attack = FAB(targets=3, restarts=2)
    assert attack.attempts(5) == 6
    for attempt in range(6):
        state = attack.init(x, y, clean, attempt, streams(10), LINF)
        assert torch.equal(state.target, clean.argsort(1, descending=True)[:, 1 + attempt // 2])
        assert torch.equal(state.point, x) == (attempt % 2 == 0)
        assert state.point.dtype == x.dtype


def test_there_are_no_more_targets_than_wrong_classes() -> None:
    assert [FAB(targets=9, restarts=2).attempts(classes) for classes in (2, 5, 10, 100)] == [2, 8, 18, 18]
    assert [FAB(targets=None, restarts=2).attempts(classes) for classes in (2, 100)] == [2, 2]


@all_norms
def test_later_walks_begin_half_way_out(threat: Threat) -> None:
    x = torch.full((200, *SHAPE), 0.5).double()
    attack = FAB(targets=None, restarts=3)
    clean, y = torch.zeros(200, 5), torch.zeros(200, dtype=torch.int64)
    starts = [attack.init(x, y, clean, attempt, streams(200).at(attempt), threat).point - x for attempt in (1, 2)]
    for start in starts:
        torch.testing.assert_close(threat.size(start), torch.full((200,), threat.eps / 2).double())
        assert start.mean(0).abs().max() < 0.2 * threat.eps
    assert (starts[0] - starts[1]).abs().max() > 0.1 * threat.eps


@pytest.mark.parametrize("targets", [1, None], ids=["targeted", "untargeted"])
def test_restarts_help_and_harm_nobody(targets: int | None) -> None:
    x, threat = edged(150), Threat("Linf", "1/20")
    y = curved()(x).argmax(1)

    def survivors(attack: FAB) -> Tensor:
        return curved()(attack(curved(), x, y, threat, generator=streams(150))).argmax(1) == y

    once = survivors(FAB(steps=1, targets=targets))
    often = survivors(FAB(steps=1, targets=targets, restarts=4))
    assert not (often & ~once).any()
    assert often.sum() < once.sum()


# The pool --------------------------------------------------------------------------------------------------------------


@all_norms
@all_targets
def test_an_adversarial_image_depends_on_its_own_index_and_not_on_its_batch(threat: Threat, targets) -> None:
    model, x = curved(), edged(64)
    y = partly_wrong(model, x)
    attack, index = FAB(steps=6, targets=targets, restarts=2), torch.arange(1000, 1064)

    def attacked(rows: Tensor) -> Tensor:
        return attack(model, x[rows], y[rows], threat, generator=SampleStreams(3, index[rows]))

    whole = attacked(torch.arange(64))
    assert 4 < (model(whole).argmax(1) == y).sum() < 47
    for size in (1, 7):
        parts = torch.cat([attacked(rows) for rows in torch.arange(64).split(size)])
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-10)
    order = torch.randperm(64, generator=seeded(12))
    torch.testing.assert_close(attacked(order), whole[order], rtol=0, atol=1e-10)


@all_norms
def test_the_pool_s_size_does_not_matter(threat: Threat) -> None:
    """In a small pool walks of all targets, restarts and ages stand side by side."""
    model, x = curved().requires_grad_(False), edged(30)
    clean = model(x)
    y, results = clean.argmax(1), []
    for capacity in (64, 1, 7):
        images, counted = x.clone(), CountedModel(model)
        inputs = SearchInputs(lambda rows: (x[rows], y[rows]), clean, streams(30))
        rows, attack = torch.arange(30), FAB(steps=5, restarts=2)
        pool = Pool(attack, inputs, threat, counted, counted, rows, Capacity(capacity), images=images)
        for _ in pool.run():
            pass
        results.append((images, pool.fooled))
    for images, fooled in results[1:]:
        torch.testing.assert_close(images, results[0][0], rtol=0, atol=1e-10)
        assert torch.equal(fooled, results[0][1])
    assert 0 < results[0][1].sum() < 30


# A step ----------------------------------------------------------------------------------------------------------------


@all_norms
@all_targets
def test_what_is_found_is_misclassified_and_not_farther_than_the_radius(threat: Threat, targets) -> None:
    model, x = curved(), edged(60)
    y = model(x).argmax(1)
    attack = FAB(targets=targets)
    state = opened(attack, model, x, y, threat)
    count = 0
    for _ in range(6):
        state = attack.step(CountedModel(model), state, threat)
        wrong = model(state.candidate).argmax(1) != y
        assert torch.equal(state.crossed, wrong)
        assert torch.equal(state.found, wrong & (threat.size(state.candidate - x) <= threat.eps))
        count += int((wrong & ~state.found).sum())
    assert state.found.any()
    assert count > 0  # some were beyond it


@all_norms
@all_targets
def test_a_turn_changes_nothing_in_place_and_costs_one_gradient_and_one_label(threat: Threat, targets) -> None:
    model, x = curved().requires_grad_(False), edged(20)
    attack = FAB(targets=targets)
    state = walked(attack, model, opened(attack, model, x, model(x).argmax(1), threat), threat, 1)
    counted = assert_a_step_is_quiet(attack, state, model, threat)
    assert (counted.forwards, counted.backwards) == (40, 20 if targets else 100)


class Answers(CountedModel):
    """Knows the answers beforehand: what is counted is the search's own."""

    def __init__(self, x: Tensor, classes: int) -> None:
        super().__init__(nn.Identity())
        self.answers = torch.randn(len(x), classes), torch.randn(len(x), classes, *x.shape[1:])

    def logits(self, x: Tensor) -> Tensor:
        return self.answers[0]

    def gradient(self, x: Tensor, objective) -> tuple[Tensor, Tensor]:
        return self.answers[1][:, 0], self.answers[0]

    def jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.answers[1], self.answers[0]


@all_norms
@all_targets
def test_a_turn_reads_no_tensor_and_makes_few_calls(threat: Threat, targets: int | None) -> None:
    """pyautoattack's step makes 579 calls, the network's included, and makes the host wait 16 times."""
    model, x = curved().requires_grad_(False), edged(20)
    y = model(x).argmax(1)
    attack = FAB(targets=targets, restarts=2)
    state = walked(attack, model, opened(attack, model, x, y, threat, attempt=1), threat, 2)
    assert 0 < state.crossed.sum() < 20
    state = replace(state, step=torch.arange(20))
    with NoHostSync():
        attack.init(x, y, state.point.flatten(1)[:, :5], 1, streams(20), threat)
        attack.step(CountedModel(model), state, threat)
    answers = Answers(x, 5)
    with NoHostSync() as guard:
        attack.step(answers, state, threat)
    assert guard.calls <= 105


# The record ------------------------------------------------------------------------------------------------------------


def test_the_record_states_steps_targets_and_restarts() -> None:
    shared = {"start": "zero", "objective": "fab"}
    assert FAB().describe(LINF) == {"steps": 100, "targets": 9, "restarts": 1, **shared}
    assert FAB(20, None, 5).describe(L2) == {"steps": 20, "targets": "all", "restarts": 5, **shared}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "at least 1 step, not 0"),
        ({"targets": 0}, "at least 1 target, not 0"),
        ({"restarts": 0}, "at least 1 restart, not 0"),
        ({"alpha_max": 1.1}, "alpha_max is a share: it must lie in .0, 1., not be 1.1"),
        ({"beta": -0.1}, "beta is a share: it must lie in .0, 1., not be -0.1"),
        ({"eta": 0.9}, "eta must be at least 1, not 0.9"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        FAB(**setting)
