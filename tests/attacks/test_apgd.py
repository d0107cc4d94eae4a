"""APGD: the released code's iterates, the schedule of the paper, closed forms, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pyautoattack import autopgd_base
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from sparring.attacks import APGD, AutoAttack, CountedModel, Restarted, SearchState
from sparring.attacks.apgd import SparseAPGD, checkpoint_windows
from sparring.attacks.fab import FAB
from sparring.attacks.square import Square
from sparring.errors import BadInput
from sparring.threat import Threat
from tests.attacks.harness import (
    Curved,
    Linear,
    after,
    assert_a_step_is_quiet,
    assert_rows_do_not_meet,
    opened,
    pictures,
    seeded,
    streams,
)
from tests.syncs import NoHostSync

pytestmark = pytest.mark.usefixtures("double_precision")

COUNT = 24
THREATS = {"Linf": Threat("Linf", "1/100"), "L2": Threat("L2", "1/25")}
both_norms = pytest.mark.parametrize("norm", ["Linf", "L2"])


def walked(
    search: APGD, model: nn.Module, state: SearchState, threat: Threat, steps: int
) -> tuple[SearchState, Tensor]:
    """The state after so many steps, and who was misclassified at some point on the way."""
    ever = torch.zeros(len(state.y), dtype=torch.bool)
    for _ in range(steps):
        state = after(search, state, model, threat)
        ever |= state.found
    return state, ever


# Against the released code ---------------------------------------------------------------------------------------------


@both_norms
@pytest.mark.parametrize("objective", ["ce", "dlr", "dlr targeted"])
@pytest.mark.parametrize("steps", [10, 40])
def test_the_best_points_are_the_released_code_s(norm: str, objective: str, steps: int) -> None:
    """From the same start. Ours evaluates the last point in one more step. In L2 the code adds 1e-12 to norms."""
    model, threat, x = Curved(6), THREATS[norm], pictures(COUNT)
    y, kind = model(x).argmax(1), objective.partition(" ")[0]
    rank = 3  # the fourth class of the clean logits
    targets = 5 if "targeted" in objective else None
    search = APGD(kind, targets=targets, steps=steps)
    state = opened(search, model, x, y, threat, rank - 1 if targets else 0)
    ours, ever = walked(search, model, state, threat, steps + 1)

    if targets:
        theirs = APGDAttack_targeted(model, n_iter=steps, norm=norm, eps=float(threat.eps), device="cpu")
        theirs.y_target = model(x).sort(1)[1][:, -1 - rank]
    else:
        theirs = APGDAttack(model, n_iter=steps, norm=norm, eps=float(threat.eps), loss=kind, device="cpu")
    theirs.init_hyperparam(x)
    best, correct, best_loss, _ = theirs.attack_single_run(x, y, x_init=state.point)

    tolerance = 1e-12 if norm == "Linf" else 1e-6
    torch.testing.assert_close(ours.best_loss, best_loss, rtol=tolerance, atol=tolerance)
    # Where the true class has fallen to third place DLR is constant, and the gradient's direction but rounding.
    steep = ours.best_gradient.flatten(1).norm(dim=1) > 1e-6
    torch.testing.assert_close(ours.best[steep], best[steep], rtol=0, atol=tolerance)
    assert steep.sum() > COUNT / 2
    assert torch.equal(ever, ~correct.bool())
    assert 0 < ever.sum() < COUNT
    if steps == 40:
        assert (ours.eta < 2 * threat.eps).any()


@both_norms
def test_the_start_is_theirs_given_their_noise(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random direction of the full radius, then the box."""
    threat, x, taken = THREATS[norm], pictures(COUNT), []
    draw = "sparring.norms." + ("uniform" if norm == "Linf" else "normal")
    noise = torch.rand(x.shape, generator=seeded(5)) if norm == "Linf" else torch.randn(x.shape)
    monkeypatch.setattr(draw, lambda like, generator: noise)
    model = Curved(6)
    y = model(x).argmax(1)
    start = opened(APGD(steps=1), model, x, y, threat).point

    class Taken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            taken.append(images.detach().clone())
            return model(images)

    theirs = APGDAttack(Taken(), n_iter=1, norm=norm, eps=float(threat.eps), device="cpu")
    theirs.init_hyperparam(x)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand" if norm == "Linf" else "randn", lambda shape, **_: noise)
        theirs.attack_single_run(x, y)
    torch.testing.assert_close(start, taken[0], rtol=0, atol=1e-11)


def test_the_checkpoints_are_those_of_the_paper() -> None:
    windows = checkpoint_windows(100)
    assert [step for step, window in enumerate(windows) if window] == [22, 41, 57, 70, 80, 87, 93, 99]
    assert [window for window in windows if window] == [22, 19, 16, 13, 10, 7, 6, 6]
    for steps in (1, 2, 7, 33, 50, 1000):
        windows = checkpoint_windows(steps)
        assert len(windows) == steps + 1
        assert [sum(windows[: at + 1]) for at, window in enumerate(windows) if window] == [
            at for at, window in enumerate(windows) if window
        ]


# What it finds ---------------------------------------------------------------------------------------------------------


@both_norms
@pytest.mark.parametrize("target", [None, 4, 3])
def test_it_reaches_the_optimum_of_a_linear_network(norm: str, target: int | None) -> None:
    model, threat = Linear((-90.0, -80.0, 60.0, -70.0, 0.0), true=2, rival=4), THREATS[norm]
    x, y = pictures(6, 0.3, 0.7), torch.full((6,), 2)
    search = APGD("margin", targets=4 if target else None, steps=80)
    attempt = {None: 0, 4: 0, 3: 1}[target]
    state, _ = walked(search, model, opened(search, model, x, y, threat, attempt), threat, 81)
    best = threat.eps * model.direction(threat, target)
    torch.testing.assert_close(state.best - x, best.expand_as(x), rtol=0, atol=1e-4)


def test_every_attempt_aims_at_a_target_of_its_own_all_restarts_of_one_before_the_next() -> None:
    model, x = Curved(6), pictures(COUNT)
    clean = model(x).detach()
    search = APGD("dlr", targets=9, restarts=2)
    assert search.attempts(6) == 5 * 2  # there are only five wrong classes
    order = clean.argsort(1, descending=True)
    for attempt in range(10):
        state = search.init(x, order[:, 0], clean, attempt, streams(COUNT), THREATS["Linf"])
        assert torch.equal(state.target, order[:, 1 + attempt // 2])


def test_gradients_are_averaged_over_so_many_passes() -> None:
    """A network whose logits carry a random slope: with more passes the direction is the mean slope's."""

    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            slope = 1 + 20 * torch.randn(x.shape[1:])
            return torch.stack([torch.zeros(len(x)), (x * slope).flatten(1).sum(1) - 100], 1)

    torch.manual_seed(0)
    x, y, threat = pictures(4, 0.3, 0.7), torch.zeros(4, dtype=torch.int64), THREATS["Linf"]
    for eot, agree in ((1, 0.7), (3000, 1.0)):
        search, counted = APGD(steps=1, eot=eot), CountedModel(Noisy())
        state = search.init(x, y, torch.zeros(4, 2), 0, streams(4), threat)
        moved = search.step(counted, state, threat)
        assert (counted.forwards, counted.backwards) == (4 * eot, 4 * eot)
        share = (moved.point >= state.point - 1e-12).double().mean()
        assert share == 1 if agree == 1 else share < 0.9


@both_norms
@pytest.mark.parametrize("search", [APGD(steps=5), APGD("dlr", steps=5), APGD("dlr", targets=3, steps=5)])
def test_a_turn_reads_no_tensor(search: APGD, norm: str) -> None:
    model, x, threat = Curved(6).requires_grad_(False), pictures(COUNT), THREATS[norm]
    clean = model(x)
    y = clean.argmax(1)
    with NoHostSync():
        state = search.init(x, y, clean, 0, streams(COUNT), threat)
        search.step(CountedModel(model), replace(state, step=torch.arange(COUNT) % 5), threat)


# What it refuses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: APGD(steps=0), "steps of at least 1, not 0"),
        (lambda: APGD(restarts=0), "restarts of at least 1"),
        (lambda: APGD(eot=-1), "eot of at least 1"),
        (lambda: APGD("dlr", targets=0), "0 classes"),
        (lambda: APGD("ce", targets=3), "by ce"),
        (lambda: APGD(rho=1), r"rho is a share in \(0, 1\), not 1"),
        (lambda: APGD("dlr").attempts(2), "DLR needs 3 classes, the model knows 2"),
        (lambda: APGD("dlr", targets=2).attempts(3), "DLR needs 4 classes, the model knows 3"),
        (lambda: AutoAttack("fastest"), "AutoAttack's version cannot be 'fastest'"),
    ],
)
def test_what_cannot_be_is_refused(make, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        make()


# AutoAttack ------------------------------------------------------------------------------------------------------------


@both_norms
def test_the_standard_version_is_the_card_s(norm: str) -> None:
    threat = THREATS[norm]
    assert list(AutoAttack().searches(10, threat).items()) == [
        ("apgd-ce", APGD("ce", steps=100, restarts=1, rho=0.75)),
        ("apgd-t", APGD("dlr", targets=9, steps=100, restarts=1)),
        ("fab-t", FAB(steps=100, targets=9, restarts=1, alpha_max=0.1, eta=1.05, beta=0.9)),
        ("square", Square(queries=5000, p=0.8, restarts=1)),
    ]


@both_norms
def test_the_other_versions_are_the_card_s(norm: str) -> None:
    threat = THREATS[norm]
    plus = AutoAttack("plus").searches(10, threat)
    assert list(plus) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert plus["apgd-ce"] == APGD("ce", restarts=5)
    assert plus["apgd-dlr"] == APGD("dlr", restarts=5)
    assert plus["fab"] == FAB(targets=None, restarts=5)
    assert plus["fab-t"] == FAB(targets=9, restarts=1)
    assert AutoAttack("rand").searches(10, threat) == {"apgd-ce": APGD("ce", eot=20), "apgd-dlr": APGD("dlr", eot=20)}
    assert list(AutoAttack("fast").searches(10, threat)) == ["apgd-ce", "apgd-t"]


@pytest.mark.parametrize("version", ["standard", "plus", "rand", "fast"])
@pytest.mark.parametrize("classes", [2, 3, 4, 10, 1000])
@both_norms
def test_every_version_exists_for_two_to_a_thousand_classes(version, classes: int, norm: str) -> None:
    searches = AutoAttack(version).searches(classes, THREATS[norm])
    for name, search in searches.items():
        attempts = search.attempts(classes)
        if name in ("apgd-t", "fab-t"):
            assert attempts == min(9, classes - 1)
    if "apgd-t" in searches:
        assert searches["apgd-t"].objective == ("dlr" if classes >= 4 else "margin")
    if "apgd-dlr" in searches:
        assert searches["apgd-dlr"].objective == ("dlr" if classes >= 3 else "margin")


@pytest.mark.parametrize("classes", [2, 3, 5])
@both_norms
def test_it_runs_on_few_classes_and_images_that_are_not_square(classes: int, norm: str, monkeypatch) -> None:
    """At a fraction of its steps."""
    standard = AutoAttack().searches

    def short(attack: AutoAttack, classes: int, threat: Threat):
        return {
            name: replace(search, queries=20) if name == "square" else replace(search, steps=8)
            for name, search in standard(classes, threat).items()
        }

    monkeypatch.setattr(AutoAttack, "searches", short)
    model, x, threat = Curved(classes), pictures(COUNT), THREATS[norm]
    y = model(x).argmax(1)
    adversarial = AutoAttack()(model, x, y, threat, generator=seeded(1))
    assert threat.size(adversarial - x).max() <= threat.eps + 1e-6
    fooled = model(adversarial).argmax(1) != y
    alone = APGD("ce", steps=8)(model, x, y, threat, generator=seeded(1))
    assert fooled.sum() >= (model(alone).argmax(1) != y).sum() > 0


# L1 --------------------------------------------------------------------------------------------------------------------

L1 = Threat("L1", "0.1")
PICTURES = (2, 6, 5)  # large enough for sparse steps


@pytest.fixture
def theirs_in_double(monkeypatch: pytest.MonkeyPatch, double_precision: None) -> None:
    """pyautoattack projects in single precision, and counts as changed what its projection leaves a rounding apart."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(autopgd_base, "L0_norm", lambda delta: (delta.abs() > 1e-6).flatten(1).sum(1))


@pytest.mark.parametrize("objective", ["ce", "dlr", "dlr targeted"])
@pytest.mark.parametrize(("steps", "shrinking"), [(10, False), (60, False), (100, False), (23, True), (100, True)])
def test_in_l1_every_point_is_the_released_code_s(
    objective: str, steps: int, shrinking: bool, theirs_in_double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All images that the networks are asked about, in order, from the same noise."""
    model, x = Curved(6, shape=PICTURES, scale=3.0), pictures(COUNT, shape=PICTURES)
    y, noise, kind = model(x).argmax(1), torch.randn(x.shape, generator=seeded(5)), objective.partition(" ")[0]
    rank, targets = 3, 5 if "targeted" in objective else None
    asked: dict[str, list[Tensor]] = {"ours": [], "theirs": []}

    class Asked(nn.Module):
        def __init__(self, by: str) -> None:
            super().__init__()
            self.by = by

        def forward(self, images: Tensor) -> Tensor:
            asked[self.by].append(images.detach().clone())
            return model(images)

    settings = APGD(kind, targets=targets, steps=steps, shrinking=shrinking)
    search = settings.searches(6, L1)[""]
    monkeypatch.setattr("sparring.attacks.apgd.normal", lambda like, _: noise)
    state = opened(search, model, x, y, L1, rank - 1 if targets else 0)
    state, ever = walked(search, Asked("ours"), state, L1, search.max_steps)
    Asked("ours")(state.point)  # which the pool verifies
    ever |= model(state.point).argmax(1) != y

    options = {"n_iter": steps, "norm": "L1", "eps": float(L1.eps), "device": "cpu", "use_largereps": shrinking}
    if targets:
        theirs = APGDAttack_targeted(Asked("theirs"), **options)
        theirs.y_target = model(x).sort(1)[1][:, -1 - rank]
    else:
        theirs = APGDAttack(Asked("theirs"), loss=kind, **options)
    theirs.init_hyperparam(x)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: noise)
    monkeypatch.setattr(torch, "randn_like", lambda *_, **__: noise)
    if shrinking:
        moves = {23: [7, 7, 9], 100: [30, 30, 40]}[steps]
        correct = theirs.decr_eps_pgd(x, y, [3 * float(L1.eps), 2 * float(L1.eps), float(L1.eps)], moves)[1]
    else:
        correct = theirs.attack_single_run(x, y)[1]

    assert len(asked["ours"]) == len(asked["theirs"]) == steps + (3 if shrinking else 1)
    torch.testing.assert_close(torch.stack(asked["ours"]), torch.stack(asked["theirs"]), rtol=0, atol=1e-9)
    assert torch.equal(ever, ~correct.bool())
    assert 0 < ever.sum() < COUNT
    assert ((state.point == x).flatten(1).sum(1) > 0).any()


def test_in_l1_standard_shrinks_its_balls_and_plus_and_rand_do_not() -> None:
    ce, dlr = APGD("ce", restarts=5, shrinking=True), APGD("dlr", targets=5, shrinking=True)
    standard = AutoAttack().searches(10, L1)
    assert list(standard.items()) == [
        ("apgd-ce", SparseAPGD(ce)),
        ("apgd-t", SparseAPGD(dlr)),
        ("fab-t", FAB(targets=9)),
        ("square", Square()),
    ]
    assert [search.attempts(10) for search in standard.values()] == [5, 5, 9, 1]
    assert [search.max_steps for search in standard.values()] == [102, 102, 100, 5001]
    assert AutoAttack("plus").searches(10, L1)["apgd-ce"] == SparseAPGD(APGD("ce", restarts=5))
    assert AutoAttack("rand").searches(10, L1)["apgd-ce"] == SparseAPGD(APGD("ce", eot=20))
    assert AutoAttack("standard").searches(3, L1)["apgd-t"].settings.objective == "margin"


def test_what_fools_in_a_larger_ball_does_not_count() -> None:
    """A network that is wrong from 0.7 on: twice the radius reaches it, the radius does not."""
    model, threat = Curved(3, shape=(1, 1, 1)), Threat("L1", "0.15")

    def step(x: Tensor) -> Tensor:
        value = x.flatten(1)[:, 0] - 0.7
        return torch.stack([torch.zeros_like(value), value, value - 1], 1)

    model.forward = step  # type: ignore[method-assign]
    x, y = torch.full((5, 1, 1, 1), 0.5), torch.zeros(5, dtype=torch.int64)
    search = APGD("margin", steps=20, shrinking=True).searches(3, threat)[""]
    state, reached = opened(search, model, x, y, threat), 0
    for _ in range(search.max_steps):
        state = after(search, state, model, threat)
        assert not state.found.any()
        reached += int((state.candidate > 0.7).any())
    assert reached > 3
    assert threat.size(state.point - x).max() <= 0.15 + 1e-12


def test_in_l1_a_linear_network_s_optimum_is_the_steepest_pixels() -> None:
    """Within 0.6: the two steepest of pixels that have 0.5 of room, the first all of it."""
    threat, model = Threat("L1", "0.6"), Linear((-90.0, 0.0, 60.0), true=2, rival=1)
    x, y = torch.full((4, 2, 3, 4), 0.5), torch.full((4,), 2)
    search = APGD("margin", steps=100).searches(3, threat)[""]
    state, _ = walked(search, model, opened(search, model, x, y, threat), threat, search.max_steps)
    slopes = model.slope().flatten().abs().sort(descending=True).values
    rise = (model.slope() * (state.best - x)).sum((1, 2, 3))
    torch.testing.assert_close(rise, (0.5 * slopes[0] + 0.1 * slopes[1]).expand(4), rtol=3e-3, atol=0)


@pytest.mark.parametrize("shrinking", [False, True])
def test_in_l1_a_turn_reads_no_tensor_and_rows_do_not_meet(shrinking: bool) -> None:
    model, x = Curved(6, shape=PICTURES, scale=0.5).requires_grad_(False), pictures(COUNT, shape=PICTURES)
    y = model(x).argmax(1)
    search = APGD("dlr", targets=3, steps=30, shrinking=shrinking).searches(6, L1)[""]
    state = walked(search, model, opened(search, model, x, y, L1), L1, 7)[0]
    state = replace(state, step=torch.arange(COUNT) + 3)
    assert_a_step_is_quiet(search, state, model, L1)
    assert_rows_do_not_meet(search, state, model, L1)


def test_a_ball_shrinks_only_in_l1_and_the_search_with_momentum_knows_no_l1() -> None:
    with pytest.raises(BadInput, match="shrinks the ball only in L1"):
        APGD(shrinking=True).searches(10, THREATS["L2"])
    x, y = pictures(3), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(BadInput, match="APGD with momentum does not exist in L1"):
        APGD().init(x, y, torch.zeros(3, 4), 0, streams(3), L1)


@pytest.mark.parametrize("attack", [APGD(steps=12, shrinking=True), APGD("margin", targets=2, steps=8), APGD(steps=6)])
def test_in_l1_it_runs_by_itself_and_restarted(attack: APGD) -> None:
    model, x = Curved(6, shape=PICTURES, scale=3.0), pictures(COUNT, shape=PICTURES)
    y = model(x).argmax(1)
    once, again = (run(model, x, y, L1, generator=seeded(1)) for run in (attack, Restarted(attack, 3)))
    for adversarial in (once, again):
        assert L1.size(adversarial - x).max() <= L1.eps + 1e-9
    fooled = [(model(adversarial).argmax(1) != y) for adversarial in (once, again)]
    assert 0 < fooled[0].sum() <= fooled[1].sum()
