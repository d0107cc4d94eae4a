"""GAMA against its formula in slow loops, closed forms and PGD."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import GAMA, PGD, Attack, CountedModel, Restarted
from sparring.errors import BadInput
from sparring.threat import Threat
from tests.attacks.harness import (
    L2,
    LINF,
    SHAPE,
    Curved,
    Linear,
    Window,
    after,
    assert_a_step_is_quiet,
    assert_batches_do_not_matter,
    assert_rows_do_not_meet,
    both_norms,
    noisy_digits,
    opened,
    pictures,
    streams,
)


def two_classes() -> Linear:
    """Class 1 wins by far everywhere."""
    return Linear((-8.0, 0.0), true=1, rival=0)


def slow_objective(logits: list[Tensor], clean: list[float], label: int, weight: float) -> Tensor:
    """Of one image, class by class."""
    total = sum(logit.exp() for logit in logits)
    now = [logit.exp() / total for logit in logits]
    rival = max(p for k, p in enumerate(now) if k != label)
    return rival - now[label] + weight * sum((p - q) ** 2 for p, q in zip(now, clean, strict=True))


def slow_attack(model: nn.Module, x: Tensor, label: int, threat: Threat, start: Tensor, steps: int) -> list[Tensor]:
    """All iterates of one image (C, H, W)."""
    eps = float(threat.eps)
    powers = model(x[None])[0].exp().tolist()
    clean = [power / sum(powers) for power in powers]
    points = [start]
    for step in range(steps):
        weight = 50 * (1 - step / (steps / 4)) if step < steps / 4 else 0
        alpha = 2 * eps / (1 if step < 0.6 * steps else 10 if step < 0.85 * steps else 100)
        point = points[-1].clone().requires_grad_()
        slow_objective(list(model(point[None])[0]), clean, label, weight).backward()
        if threat.norm == "Linf":
            delta = (point.detach() - x + alpha * point.grad.sign()).clamp(-eps, eps)
        else:
            delta = point.detach() - x + alpha * point.grad / point.grad.norm()
            delta = delta * min(1, eps / float(delta.norm()))
        points.append((x + delta).clamp(0, 1))
    return points


@both_norms
@pytest.mark.parametrize("steps", [3, 20, 100])
def test_every_iterate_is_that_of_the_formula(threat: Threat, steps: int) -> None:
    search, model, x = GAMA(steps=steps), Curved(), pictures(4)
    y = torch.tensor([0, 1, 2, 3])
    state = opened(GAMA(), model, x, y, threat)
    expected = [slow_attack(model, x[row], row, threat, state.point[row], steps) for row in range(4)]
    assert search.max_steps == steps
    for step in range(steps):
        state = after(search, state, model, threat)
        reference = torch.stack([points[step + 1] for points in expected])
        torch.testing.assert_close(state.point, reference, rtol=0, atol=1e-8)
        assert torch.equal(state.found, model(state.candidate).argmax(1) != y)


@pytest.mark.parametrize(
    ("steps", "drops"), [(100, (60, 85)), (20, (12, 17)), (10, (6, 9)), (7, (5, 6)), (2, (2, 2)), (1, (1, 1))]
)
def test_the_step_is_twice_the_radius_and_a_tenth_from_each_drop_on(steps: int, drops: tuple[int, int]) -> None:
    """Seen from the far side of the ball, where nothing is cut off."""
    model, x = two_classes(), pictures(1, 0.4, 0.6).expand(steps, *SHAPE)
    direction = model.direction(LINF)
    state = replace(opened(GAMA(), model, x, torch.ones(steps, dtype=torch.int64), LINF), step=torch.arange(steps))
    state = replace(state, point=x - 0.1 * direction, clean=model(x - 0.1 * direction).softmax(1).detach())
    moved = (GAMA(steps=steps).step(CountedModel(model), state, LINF).point - state.point) * direction
    expected = [0.2 if step < drops[0] else 0.02 if step < drops[1] else 0.002 for step in range(steps)]
    sizes = torch.tensor(expected, dtype=torch.float64).view(-1, 1, 1, 1)
    torch.testing.assert_close(moved, sizes.expand_as(moved), rtol=0, atol=1e-12)


@both_norms
def test_the_start_is_plus_or_minus_the_radius(threat: Threat) -> None:
    x = torch.full((400, *SHAPE), 0.5, dtype=torch.float64)
    start = opened(GAMA(), Curved(), x, torch.zeros(400, dtype=torch.int64), threat).point - x
    size = 0.1 if threat.norm == "Linf" else 0.1 / math.sqrt(24)
    torch.testing.assert_close(start.abs(), torch.full_like(start, size))
    assert (start > 0).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(400 * 24))


@both_norms
def test_the_guidance_may_lead_away_from_the_boundary_and_ends_before_the_optimum_is_found(threat: Threat) -> None:
    """On a linear network: from the safe side it first climbs the distance from the clean prediction."""
    model, x = two_classes(), pictures(6, 0.4, 0.6)
    best = 0.1 * model.direction(threat)
    with torch.no_grad():
        model.weight *= 0.5
    y = torch.ones(6, dtype=torch.int64)
    safe = replace(opened(GAMA(), model, x, y, threat), point=x - 0.5 * best)
    # Without guidance it would go towards `best`; with it, where p(x') differs most from p(x).
    near = replace(safe, clean=torch.tensor([[0.5, 0.5]], dtype=torch.float64).expand(6, 2))
    assert ((GAMA().step(CountedModel(model), near, threat).point - x) * best < 0).all()
    late = replace(near, step=torch.full((6,), 25))
    assert ((GAMA().step(CountedModel(model), late, threat).point - x) * best > 0).all()

    state = safe
    for _ in range(100):
        state = after(GAMA(), state, model, threat)
        assert not state.found.any()
    torch.testing.assert_close(state.point - x, best.expand_as(x), rtol=0, atol=1e-9)


def test_an_image_that_is_wrong_at_an_earlier_iterate_counts_as_fooled() -> None:
    model, x, threat = Window(0.5, 0.7), torch.full((1, 1, 1, 1), 0.4).double(), Threat("Linf", "0.4")
    state = replace(opened(GAMA(), model, x, torch.tensor([0]), threat), step=torch.tensor([6]), point=x + 0.1)
    visited = []
    for _ in range(4):
        state = after(GAMA(steps=10), state, model, threat)
        visited.append((round(state.candidate.item(), 6), state.found.item()))
    assert visited == [(0.5, True), (0.58, True), (0.66, True), (0.74, False)]


@both_norms
@pytest.mark.parametrize("search", [GAMA(steps=8), Restarted(GAMA(steps=5), 3)], ids=["once", "restarts"])
def test_an_adversarial_image_depends_on_its_own_index_and_not_on_its_batch(search: Attack, threat: Threat) -> None:
    model, x = Curved(), pictures(64)
    assert_batches_do_not_matter(search, model, x, threat, atol=1e-9)


@both_norms
def test_rows_at_different_steps_do_not_meet_and_a_turn_reads_no_tensor_and_changes_none(threat: Threat) -> None:
    model, x = Curved(), pictures(5)
    state = replace(opened(GAMA(), model, x, torch.arange(5) % 4, threat), step=torch.tensor([0, 13, 25, 60, 99]))
    counted = assert_a_step_is_quiet(GAMA(), state, model, threat)
    assert (counted.forwards, counted.backwards) == (5, 5)
    assert_rows_do_not_meet(GAMA(), state, model, threat)


@pytest.mark.parametrize("threat", [Threat("Linf", "0.12"), Threat("L2", "0.6")], ids=["Linf", "L2"])
def test_it_leaves_no_more_digits_than_pgd_20(threat: Threat) -> None:
    """Means of three runs on 300 digits, where runs of either differ by about 2 digits."""
    model, x, y = noisy_digits()
    x, y = x[:300], y[:300]

    def left(attack: Attack) -> float:
        wrong = 0.0
        for seed in range(3):
            adversarial = attack(model, x, y, threat, generator=streams(300, seed))
            wrong += (model(adversarial).argmax(1) == y).double().sum().item() / 3
        return wrong

    assert 60 < left(GAMA()) <= left(PGD(steps=20)) + 2


def test_it_says_what_a_record_must_state() -> None:
    expected = {
        "steps": 100,
        "alpha": "16/255, a tenth of it from 60% of the steps on, a hundredth from 85% on",
        "start": "bernoulli",
        "restarts": 1,
        "objective": "probability margin, guided with weight 50 falling to 0 over 25% of the steps",
    }
    assert GAMA().describe(Threat("Linf", "8/255")) == expected
    assert Restarted(GAMA(steps=20), 5).describe(L2) == expected | {
        "steps": 20,
        "restarts": 5,
        "alpha": "1/5, a tenth of it from 60% of the steps on, a hundredth from 85% on",
    }


def test_fewer_than_one_step_is_refused() -> None:
    with pytest.raises(BadInput, match="at least 1 step, not 0"):
        GAMA(steps=0)
