"""Every attack that has a name stays in the ball and in the box: with what it returns, and on the way there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.attacks import (
    APGD,
    CW,
    FAB,
    FGSM,
    GAMA,
    IFGSM,
    PGD,
    Attack,
    AutoAttack,
    MultiTargeted,
    Restarted,
    Search,
    Square,
    named,
)
from sparring.attacks.named import EXAMPLES
from sparring.threat import Threat
from tests.attacks.harness import Curved, after, partly_wrong, seeded, streams

SEARCHES = {
    "fgsm": FGSM(),
    "pgd": PGD(steps=3),
    "pgd from zero": PGD(steps=2, start="zero"),
    "pgd from bernoulli": PGD(steps=2, start="bernoulli"),
    "pgd restarted": Restarted(PGD(steps=2), 2),
    "cw": CW(steps=3),
    "apgd-ce": APGD(steps=3),
    "apgd-ce of one step": APGD(steps=1),
    "apgd-dlr": APGD("dlr", steps=4),
    "apgd-t": APGD("dlr", targets=2, steps=3),
    "fab": FAB(steps=4, targets=None),
    "fab-t": FAB(steps=4),
    "fab-t restarted": FAB(steps=3, targets=2, restarts=2),
    "square": Square(queries=8),
    "mt": MultiTargeted(steps=4, restarts=4),
    "ifgsm": IFGSM(steps=3),
    "gama": GAMA(steps=6),
}


class Short(AutoAttack):
    """With the searches above in place of its own."""

    def searches(self, classes: int, threat: Threat) -> dict[str, Search]:
        return {name: SEARCHES[name].searches(classes, threat)[""] for name in super().searches(classes, threat)}


ATTACKS: dict[str, Attack] = SEARCHES | {"aa": Short(), "aa-plus": Short("plus")}


def test_no_named_attack_is_missing_here() -> None:
    for name in EXAMPLES:
        assert any(isinstance(attack, type(named(name))) for attack in ATTACKS.values())


def problem(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> tuple[Curved, Tensor]:
    """A network, and images, a black and a white one among them."""
    x = torch.rand(8, *shape, generator=seeded(seed), dtype=dtype)
    x[1], x[2] = 0, 1
    return Curved(shape=shape), x


@contextmanager
def by_default(dtype: torch.dtype) -> Iterator[None]:
    """In float64 a tensor that is made without the images' type makes them float64, too."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


anything = given(
    norm=st.sampled_from(["Linf", "L2", "L1"]),
    eps=st.floats(1e-4, 0.99),
    relative=st.one_of(st.none(), st.floats(1e-4, 2.0)),  # the step size in radii; longer ones are refused
    dtype=st.sampled_from([torch.float32, torch.float64]),
    default=st.sampled_from([torch.float32, torch.float64]),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 100),
)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
@settings(deadline=None, max_examples=40, derandomize=True)
@anything
def test_adversarial_images_are_in_the_ball_and_in_the_box(
    attack, norm, eps, relative, dtype, default, shape, seed
) -> None:
    if isinstance(attack, PGD):
        attack = replace(attack, alpha=relative and relative * eps)
    if isinstance(attack, APGD):
        attack = replace(attack, shrinking=norm == "L1" and seed % 2 > 0)
    threat, (model, x) = Threat(norm, eps), problem(shape, dtype, seed)
    y = partly_wrong(model, x)
    with by_default(default):
        adversarial = attack(model, x, y, threat, generator=streams(8, seed))
    assert adversarial.dtype == dtype
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert threat.size(adversarial - x).max() <= eps + threat.geometry.rounding(x[0].numel())
    right = model(x).argmax(1) == y
    assert torch.equal(adversarial[~right], x[~right])
    if not isinstance(attack, FAB):  # which leaves those whom it does not fool where they are
        assert (adversarial - x)[right].abs().max() > 0


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "apgd-t", "fab", "fab-t", "square", "mt", "gama"])
@settings(deadline=None, max_examples=60, derandomize=True)
@anything
def test_all_points_on_the_way_are_in_the_ball_and_in_the_box(
    name, norm, eps, relative, dtype, default, shape, seed
) -> None:
    """Of FAB's only what it claims to have found must be in the ball, and distances may be infinite."""
    threat, (model, x), attack = Threat(norm, eps), problem(shape, dtype, seed), SEARCHES[name]
    if name == "pgd":
        attack = replace(attack, alpha=relative and relative * eps)
    search, allowed = attack.searches(4, threat)[""], eps + threat.geometry.rounding(x[0].numel())
    steps = (0, 1, 2, 3, 12, 60, 300, 5000) if name == "square" else range(search.max_steps)
    y = torch.arange(8) % 4
    for attempt in (0, 1):
        with by_default(default):
            visited = [search.init(x, y, model(x).detach(), attempt, streams(8, seed).at(attempt), threat)]
            for step in steps:
                state = replace(visited[-1], step=visited[-1].step.clamp_min(step))
                visited.append(after(search, state, model, threat))
        for state in visited:
            assert all(value.dtype == dtype for value in state.tensors().values() if value.is_floating_point())
            assert threat.size(state.candidate - x)[state.found].le(allowed).all()
            for images in (state.point, state.candidate):
                assert images.min() >= 0
                assert images.max() <= 1
                assert isinstance(search, FAB) or threat.size(images - x).max() <= allowed
        assert isinstance(search, FAB) or all(value.isfinite().all() for value in visited[-1].tensors().values())
