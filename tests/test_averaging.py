"""The shares against closed forms: what every step weighs in the average that they make."""

from __future__ import annotations

import math

import pytest

from sparring.averaging import EMA, SWA, Average
from sparring.errors import BadInput

AVERAGES: list[Average] = [EMA(), EMA(0.9), EMA(0.9998, warmup=False), SWA(), SWA("0"), SWA("1/2"), SWA(0.999)]


def weighed(average: Average, total: int) -> list[float]:
    """What the initial weights and those after steps 1, 2, ... count in the average at the end."""
    counts = [1.0]
    for step in range(1, total + 1):
        share = average.share(step, total)
        counts = [*(count * (1 - share) for count in counts), share]
    return counts


def test_an_ema_warms_up_as_written() -> None:
    assert [EMA(0.3).share(step, 100) for step in range(1, 6)] == pytest.approx([9 / 11, 9 / 12, 0.7, 0.7, 0.7])
    assert EMA().share(10**6, 10**6) == pytest.approx(0.005)
    assert EMA().share(100, 10**6) == pytest.approx(9 / 110)


def test_without_warmup_the_share_of_an_ema_is_constant() -> None:
    average = EMA(0.9998, warmup=False)
    assert {average.share(step, 1000) for step in (1, 2, 500, 1000)} == {1 - 0.9998}
    assert weighed(average, 1000)[0] == pytest.approx(0.9998**1000)


def test_an_ema_knows_nothing_of_the_length_of_the_run() -> None:
    assert EMA().share(7, 10) == EMA().share(7, 1000)


@pytest.mark.parametrize(
    ("start", "total", "first"),
    [
        ("1/2", 10, 6),
        ("1/2", 11, 7),  # half of 11 is 5.5 steps, so that the first whole one past it is number 7
        ("0", 10, 1),
        ("100/110", 110, 101),
        ("100/110", 110 * 391, 100 * 391 + 1),
        ("0.999", 10, 10),
        ("0.57", 100, 58),  # in floats 0.57 x 100 is less than 57
    ],
)
def test_swa_is_the_equal_mean_of_the_steps_past_the_start(start: str, total: int, first: int) -> None:
    average = SWA(start)
    assert all(average.share(step, total) == 1 for step in range(1, first + 1))
    if total < 1000:
        found = weighed(average, total)
        equal = 1 / (total - first + 1)
        assert found == pytest.approx([0.0] * first + [equal] * (total - first + 1), abs=1e-12)
    else:
        assert average.share(first + 1, total) == 1 / 2


@pytest.mark.parametrize("average", AVERAGES, ids=str)
@pytest.mark.parametrize("total", [1, 2, 7, 110])
def test_every_share_is_a_part_and_the_weights_sum_to_one(average: Average, total: int) -> None:
    assert all(0 < average.share(step, total) <= 1 for step in range(1, total + 1))
    assert math.fsum(weighed(average, total)) == pytest.approx(1)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 1.5, math.inf])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(BadInput, match=f"decay of EMA must lie between 0 and 1, not at {decay}:"):
        EMA(decay)


@pytest.mark.parametrize("start", ["1", "-1/2", "110/100", 2])
def test_a_start_outside_the_run_is_refused(start: str | int) -> None:
    with pytest.raises(BadInput, match=rf"start of SWA is a fraction of the run in \[0, 1\), not {start}:"):
        SWA(start)
    with pytest.raises(BadInput, match="'half' is not a number"):
        SWA("half")
