"""Schedules against PyTorch's, and drops at exactly the right step whatever the number of epochs."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.errors import BadInput
from sparring.schedule import Constant, Cosine, Cyclic, InverseTime, Linear, MultiStep, Piecewise, Schedule
from sparring.threat import Ratio

LR = 0.2
cases = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def sgd(lr: float = LR) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def torch_curve(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[tuple[float, float]]:
    """(learning rate, momentum) at every step."""
    curve = []
    for _ in range(steps):
        group = scheduler.optimizer.param_groups[0]
        curve.append((group["lr"], group["momentum"]))
        scheduler.optimizer.step()
        scheduler.step()
    return curve


def factors(schedule: Schedule, total: int) -> list[float]:
    return [schedule.factor(step, total) for step in range(total)]


def test_constant_is_constant() -> None:
    assert set(factors(Constant(), 17)) == {1.0}


@pytest.mark.parametrize(
    "schedule",
    [Constant(), MultiStep(), Piecewise(((0, 0), (1, 1))), Linear(), Cosine(), Cyclic(), Linear(0.1), Cosine(0.1)],
    ids=str,
)
def test_momentum_is_left_alone_unless_asked_for(schedule: Schedule) -> None:
    assert {schedule.momentum(step, 20) for step in range(20)} == {None}


# InverseTime


def test_inverse_time_divides_another_schedule_as_keras_s_decay_does() -> None:
    """Keras's SGD: lr / (1 + decay * iterations), with iterations counted from 0 over the whole run."""
    schedule = InverseTime(MultiStep(("1/2",)), decay=0.01)
    assert [schedule.factor(step, 100) for step in (0, 1, 49, 50, 99)] == pytest.approx(
        [1.0, 1 / 1.01, 1 / 1.49, 0.1 / 1.5, 0.1 / 1.99]
    )
    assert InverseTime(Cyclic(lowest_momentum=0.8)).momentum(50, 100) == Cyclic(lowest_momentum=0.8).momentum(50, 100)
    with pytest.raises(BadInput, match="at least 0, not -1"):
        InverseTime(decay=-1)


# MultiStep


@pytest.mark.parametrize("epochs", [30, 55, 60, 100, 110, 200])
@pytest.mark.parametrize("per_epoch", [391, 1, 4, 390])
def test_the_default_drops_where_100_and_105_of_110_epochs_lie(epochs: int, per_epoch: int) -> None:
    total = epochs * per_epoch
    values = factors(MultiStep(), total)
    drops = [step for step in range(1, total) if values[step] != values[step - 1]]
    assert drops == [-(-100 * total // 110), -(-105 * total // 110)]  # rounded up
    assert [values[0], values[drops[0]], values[-1]] == pytest.approx([1.0, 0.1, 0.01], rel=1e-12)


def test_110_epochs_drop_at_the_first_step_of_epochs_100_and_105() -> None:
    schedule, total = MultiStep(), 110 * 391
    for epoch, before, after in [(100, 1.0, 0.1), (105, 0.1, 0.01)]:
        assert schedule.factor(epoch * 391 - 1, total) == pytest.approx(before)
        assert schedule.factor(epoch * 391, total) == pytest.approx(after)


@cases
@given(epochs=st.integers(2, 300), per_epoch=st.integers(1, 1000), data=st.data())
def test_every_milestone_fires_at_the_first_step_of_its_epoch(epochs: int, per_epoch: int, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(1, epochs - 1))
    schedule = MultiStep((f"{epoch}/{epochs}",))
    total = epochs * per_epoch
    assert schedule.factor(epoch * per_epoch - 1, total) == 1.0
    assert schedule.factor(epoch * per_epoch, total) == 0.1


def test_float_milestones_would_fire_too_early_or_too_late() -> None:
    """The reason for exact fractions: in floats, 0.29 * 100 is less than 29 and 0.07 * 100 is more than 7."""
    for percent in range(1, 100):
        schedule = MultiStep((f"0.{percent:02d}",))
        assert [schedule.factor(percent - 1, 100), schedule.factor(percent, 100)] == [1.0, 0.1]
        assert schedule.factor(percent * 391, 100 * 391) == 0.1
        assert schedule.factor(percent * 391 - 1, 100 * 391) == 1.0


@pytest.mark.parametrize(
    ("epochs", "milestones"), [(11, [10]), (30, [15, 25]), (110, [100, 105]), (200, [60, 120, 160])]
)
def test_multi_step_is_torchs(epochs: int, milestones: list[int]) -> None:
    per_epoch, gamma = 7, 0.2
    schedule = MultiStep(tuple(f"{milestone}/{epochs}" for milestone in milestones), gamma)
    steps = [milestone * per_epoch for milestone in milestones]
    reference = torch_curve(torch.optim.lr_scheduler.MultiStepLR(sgd(), steps, gamma), epochs * per_epoch)
    ours = [LR * factor for factor in factors(schedule, epochs * per_epoch)]
    assert ours == pytest.approx([rate for rate, _ in reference], rel=1e-12)


@pytest.mark.parametrize("milestone", [0, 1, "100", "-1/2", "110/100", 1.5])
def test_a_milestone_outside_the_run_is_refused(milestone: str | float) -> None:
    with pytest.raises(BadInput, match=f"milestone {milestone} is not a fraction of the run: write 100/110"):
        MultiStep((Ratio("1/2"), milestone))


def test_milestones_remember_how_they_were_written() -> None:
    assert repr(MultiStep(("50/55", 0.95))) == "MultiStep(milestones=(50/55, 0.95), gamma=0.1)"
    assert MultiStep(["50/55"]) == MultiStep((Ratio("100/110"),))


# Cyclic


@pytest.mark.parametrize(("total", "up"), [(30 * 391, 15 * 391), (100, 50), (30, 12), (40, 10), (40, 38)])
def test_cyclic_is_torchs_triangle_with_its_momentum(total: int, up: int) -> None:
    """CyclicLR with base 0, as in the released code; its momentum moves 0.9 -> 0.8 -> 0.9."""
    reference = torch_curve(
        torch.optim.lr_scheduler.CyclicLR(sgd(), base_lr=0, max_lr=LR, step_size_up=up, step_size_down=total - up),
        total,
    )
    schedule = Cyclic(peak=up / total, lowest_momentum=0.8)
    ours = [(LR * schedule.factor(step, total), schedule.momentum(step, total)) for step in range(total)]
    assert [rate for rate, _ in ours] == pytest.approx([rate for rate, _ in reference], abs=1e-12)
    assert [value for _, value in ours] == pytest.approx([value for _, value in reference], abs=1e-12)


def test_cyclic_starts_peaks_and_ends() -> None:
    schedule = Cyclic(peak=0.4, lowest_momentum=0.85, highest_momentum=0.95)
    assert [schedule.factor(step, 10) for step in (0, 2, 4, 7, 10)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert [schedule.momentum(step, 10) for step in (0, 4, 10)] == pytest.approx([0.95, 0.85, 0.95])


@pytest.mark.parametrize("peak", [0, 1, -0.5, 1.5, math.inf])
def test_a_peak_outside_the_run_is_refused(peak: float) -> None:
    with pytest.raises(BadInput, match="peak of a cyclic schedule must lie inside the run"):
        Cyclic(peak=peak)


# Linear, Cosine, Piecewise


@pytest.mark.parametrize("total", [1, 7, 1000])
def test_cosine_is_torchs(total: int) -> None:
    reference = torch_curve(torch.optim.lr_scheduler.CosineAnnealingLR(sgd(), total), total)
    assert [LR * factor for factor in factors(Cosine(), total)] == pytest.approx([r for r, _ in reference], abs=1e-12)


@pytest.mark.parametrize("total", [1, 7, 1000])
def test_linear_is_torchs(total: int) -> None:
    scheduler = torch.optim.lr_scheduler.LinearLR(sgd(), start_factor=1, end_factor=1e-12, total_iters=total)
    reference = torch_curve(scheduler, total)
    assert [LR * factor for factor in factors(Linear(), total)] == pytest.approx([r for r, _ in reference], abs=1e-9)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=str)
def test_decay_goes_from_one_to_zero_and_never_up(schedule: Schedule) -> None:
    values = [schedule.factor(step, 100) for step in range(101)]
    assert values[0] == 1
    assert values[50] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0, abs=1e-15)
    assert all(a > b for a, b in pairwise(values))


@pytest.mark.parametrize("schedule", [Linear(warmup=0.2), Cosine(warmup=0.2)], ids=str)
def test_a_warmup_rises_linearly_and_decay_takes_the_rest(schedule: Schedule) -> None:
    values = [schedule.factor(step, 100) for step in range(101)]
    assert values[:21] == pytest.approx([step / 20 for step in range(21)])
    rest = replace(schedule, warmup=0.0)
    assert values[20:] == pytest.approx([rest.factor(step, 80) for step in range(81)], abs=1e-12)


@pytest.mark.parametrize("kind", [Linear, Cosine])
@pytest.mark.parametrize("warmup", [-0.1, 1.0, 2.0])
def test_a_warmup_that_does_not_end_within_the_run_is_refused(kind: type[Linear] | type[Cosine], warmup: float) -> None:
    with pytest.raises(BadInput):
        kind(warmup=warmup)


def test_piecewise_joins_its_points() -> None:
    schedule = Piecewise(((0, 0.0), ("2/5", 1.0), ("0.8", 0.1), (1, 0.0)))
    values = [schedule.factor(step, 10) for step in range(11)]
    assert values == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.775, 0.55, 0.325, 0.1, 0.05, 0])


@cases
@given(total=st.integers(1, 500), peak=st.integers(1, 99))
def test_piecewise_can_be_cyclic_and_linear(total: int, peak: int) -> None:
    triangle = Piecewise(((0, 0), (f"{peak}/100", 1), (1, 0)))
    assert factors(triangle, total) == pytest.approx(factors(Cyclic(peak=peak / 100), total))
    assert factors(Piecewise(((0, 1), (1, 0))), total) == pytest.approx(factors(Linear(), total))


@pytest.mark.parametrize(
    "points",
    [(), ((0, 1),), ((0, 1), (0.5, 1)), ((0.1, 1), (1, 0)), ((0, 1), (0.6, 1), (0.5, 0), (1, 0)), ((1, 0), (0, 1))],
)
def test_points_that_do_not_span_the_run_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(BadInput, match="points must rise from fraction 0 to 1"):
        Piecewise(points)


def test_piecewise_jumps_where_two_points_have_one_fraction() -> None:
    schedule = Piecewise(((0, 1.0), ("1/2", 2.0), ("1/2", 0.5), (1, 0.0)))
    values = [schedule.factor(step, 8) for step in range(9)]
    assert values == pytest.approx([1, 1.25, 1.5, 1.75, 0.5, 0.375, 0.25, 0.125, 0])
    assert schedule.factor(4, 8) == 0.5


def test_piecewise_jumps_at_the_first_step_of_its_epochs() -> None:
    """TRADES's and FAT's rates: 1, 0.1, 0.01 and 0.005 from epochs 60, 90 and 110 of 120 on."""
    jumps = [(60, 0.1), (90, 0.01), (110, 0.005)]
    points, before = [(0, 1.0)], 1.0
    for epoch, after in jumps:
        points += [(f"{epoch}/120", before), (f"{epoch}/120", after)]
        before = after
    schedule, per_epoch = Piecewise((*points, (1, before))), 391
    values = factors(schedule, 120 * per_epoch)
    assert values == [
        next((after for epoch, after in reversed(jumps) if step >= epoch * per_epoch), 1.0)
        for step in range(120 * per_epoch)
    ]


@cases
@given(epochs=st.integers(2, 300), per_epoch=st.integers(1, 1000), data=st.data())
def test_every_jump_comes_at_the_first_step_of_its_epoch(epochs: int, per_epoch: int, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(1, epochs - 1))
    milestone, total = f"{epoch}/{epochs}", epochs * per_epoch
    schedule = Piecewise(((0, 1.0), (milestone, 1.0), (milestone, 0.1), (1, 0.1)))
    assert [schedule.factor(epoch * per_epoch - 1, total), schedule.factor(epoch * per_epoch, total)] == [1.0, 0.1]


def test_a_jump_at_the_very_end_comes_after_the_last_step() -> None:
    schedule = Piecewise(((0, 1.0), (1, 1.0), (1, 7.0)))
    assert factors(schedule, 4) == [1.0] * 4
    assert schedule.factor(4, 4) == 7.0
