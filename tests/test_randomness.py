"""Streams that belong to a sample: the published generator, the right distributions, and nothing from the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor

from sparring.randomness import Generator, SampleStreams, initialised, normal, rademacher, seed_from, uniform

Draw = Callable[..., Tensor]
WORD = 2**64
MANY = 20_000
SEEDS = (
    4761921975702974394,
    8149998584550362645,
    1129168158855626867,
)  # seed_from's first values; runs of other versions depend on them


def finalise(z: int) -> int:
    """splitmix64's output function, from the C code of Vigna's reference implementation."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def splitmix64(state: int) -> Iterator[int]:
    while True:
        state = (state + 0x9E3779B97F4A7C15) % WORD
        yield finalise(state)


def kolmogorov_smirnov(sample: Tensor) -> float:
    """sqrt(n) times the largest distance to the distribution function of U[0, 1); above 1.95 one time in a thousand."""
    ordered = sample.double().flatten().sort().values
    rank = torch.arange(len(ordered), dtype=torch.float64) / len(ordered)
    distance = torch.maximum((ordered - rank).abs(), (rank + 1 / len(ordered) - ordered).abs()).max()
    return distance.item() * math.sqrt(len(ordered))


def streams(count: int = MANY, seed: int = 0, stage: int = 0) -> SampleStreams:
    return SampleStreams(seed, torch.arange(count), stage)


def generators() -> list[Generator]:
    return [torch.Generator().manual_seed(0), streams()]


def test_a_seed_is_the_same_in_every_process() -> None:
    assert seed_from(0) == SEEDS[0]
    assert seed_from(1, 2, 3) == SEEDS[1]
    assert seed_from(-1) == SEEDS[2]


def test_seeds_differ_for_different_parts_and_fit_a_generator() -> None:
    parts = [(), (0,), (0, 0), (1, 23), (12, 3), (123,), (3, 12), (-1,), (1,), (1 << 80,)]
    seeds = [seed_from(*numbers) for numbers in parts]
    assert len(set(seeds)) == len(parts)
    for seed in seeds:
        assert 0 <= seed < 2**63
        torch.Generator().manual_seed(seed)


def test_the_seeds_fill_their_range() -> None:
    seeds = torch.tensor([seed_from(7, number) for number in range(2000)], dtype=torch.float64) / 2**63
    assert kolmogorov_smirnov(seeds) < 1.95


def test_the_oracle_gives_the_published_numbers() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert list(islice(splitmix64(1234567), 4)) == published


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_is_splitmix64_keyed_by_the_sample(dtype: torch.dtype) -> None:
    index, elements = [0, 1, 49_999, 2**40, 2**63 - 1], 6
    drawn = SampleStreams(5, torch.tensor(index), stage=3).uniform(torch.zeros(len(index), 1, 2, 3, dtype=dtype))
    assert drawn.shape == (len(index), 1, 2, 3)
    assert drawn.dtype == dtype
    for row, sample in zip(drawn.flatten(1), index, strict=True):
        key = finalise((sample * 0x9E3779B97F4A7C15 + seed_from(5, 3)) % WORD)
        state = (key - 0x9E3779B97F4A7C15) % WORD  # so that the first output belongs to element 0
        assert row.tolist() == [(word >> 40) / 2**24 for word in islice(splitmix64(state), elements)]


def test_single_and_double_precision_draw_the_same_numbers() -> None:
    single = streams(50).uniform(torch.zeros(50, 7))
    assert torch.equal(single.double(), streams(50).uniform(torch.zeros(50, 7, dtype=torch.float64)))


@pytest.mark.parametrize("draw", [uniform, normal, rademacher])
def test_a_sample_draws_the_same_in_every_batch(draw: Draw) -> None:
    like = torch.zeros(32, 3, 4, 4)
    whole = draw(like, SampleStreams(1, torch.arange(100, 132), stage=2))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    some = order[:11]
    assert torch.equal(draw(like, SampleStreams(1, 100 + order, 2)), whole[order])
    assert torch.equal(draw(like[:11], SampleStreams(1, 100 + some, 2)), whole[some])
    assert torch.equal(draw(like[:1], SampleStreams(1, torch.tensor([117]), 2)), whole[17:18])


def test_a_larger_image_begins_with_the_same_numbers() -> None:
    assert torch.equal(streams(9).uniform(torch.zeros(9, 12))[:, :5], streams(9).uniform(torch.zeros(9, 5)))


def test_seeds_stages_and_samples_have_streams_of_their_own() -> None:
    like = torch.zeros(40, 10)
    drawn = [streams(40, seed, stage).uniform(like) for seed in range(3) for stage in range(3)]
    rows = torch.cat(drawn)
    assert len(rows.unique(dim=0)) == len(rows)
    assert rows.unique().numel() > 0.99 * rows.numel()
    assert torch.equal(streams(40, 2).at(1).uniform(like), streams(40, 2, 1).uniform(like))


def test_no_correlation_between_neighbours() -> None:
    """Of samples, elements, stages and seeds; a correlation of n independent pairs has a deviation of 1 / sqrt(n)."""
    like = torch.zeros(2001, 11, dtype=torch.float64)
    base = streams(2001).uniform(like)
    pairs = [
        (base[:-1], base[1:]),
        (base[:, :-1], base[:, 1:]),
        (base, streams(2001, stage=1).uniform(like)),
        (base, streams(2001, seed=1).uniform(like)),
    ]
    for one, other in pairs:
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) * math.sqrt(one.numel()) < 4


@pytest.mark.parametrize("by", ["sample", "element"])
def test_uniform_numbers_are_uniform_over_samples_and_over_elements(by: str) -> None:
    drawn = streams().uniform(torch.zeros(MANY, 1)) if by == "sample" else streams(1).uniform(torch.zeros(1, MANY))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert kolmogorov_smirnov(drawn) < 1.95
    counts = torch.histc(drawn, bins=100, min=0, max=1)
    expected = MANY / 100
    assert ((counts - expected) ** 2 / expected).sum() < 99 + 4 * math.sqrt(2 * 99)  # chi-square, 99 degrees


@pytest.mark.parametrize("generator", generators(), ids=["generator", "streams"])
def test_normal_numbers_have_the_normal_moments(generator: Generator) -> None:
    drawn = normal(torch.zeros(MANY, 4, dtype=torch.float64), generator)
    count = drawn.numel()
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((drawn**power).mean() - moment) < 4 * math.sqrt(variance / count), power
    assert kolmogorov_smirnov(torch.special.ndtr(drawn)) < 1.95
    correlation = torch.corrcoef(drawn.T) - torch.eye(4)
    assert correlation.abs().max() * math.sqrt(MANY) < 4


def test_normal_numbers_are_finite_in_single_precision() -> None:
    drawn = normal(torch.zeros(300, 3, 32, 32), streams(300))
    assert drawn.isfinite().all()
    assert 4.2 < drawn.abs().max() < 6


def test_normal_numbers_are_finite_for_the_extreme_uniform_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for extreme in (0.0, 1 - 2**-24):
        monkeypatch.setattr(SampleStreams, "uniform", lambda self, like, value=extreme: torch.full_like(like, value))
        assert normal(torch.zeros(2, 3), streams(2)).isfinite().all()


@pytest.mark.parametrize("generator", generators(), ids=["generator", "streams"])
def test_rademacher_numbers_are_fair_signs(generator: Generator) -> None:
    drawn = rademacher(torch.zeros(MANY, 2, dtype=torch.float64), generator)
    assert drawn.dtype == torch.float64
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert abs(drawn.mean()) * math.sqrt(drawn.numel()) < 4
    assert abs((drawn[:, 0] * drawn[:, 1]).mean()) * math.sqrt(MANY) < 4


@pytest.mark.parametrize("draw", [uniform, normal, rademacher])
def test_a_generator_is_used_and_moves_on(draw: Draw) -> None:
    like = torch.zeros(2, 8)
    generator = torch.Generator().manual_seed(3)
    first, second = draw(like, generator), draw(like, generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, draw(like, torch.Generator().manual_seed(3)))
    torch.manual_seed(3)
    assert torch.equal(first, draw(like))  # the default generator


def test_streams_leave_the_default_generator_alone() -> None:
    before = torch.get_rng_state()
    normal(torch.zeros(4, 4), streams(4))
    rademacher(torch.zeros(4, 4), streams(4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_numbers_stay_below_one(dtype: torch.dtype) -> None:
    drawn = streams(64).uniform(torch.zeros(64, 256, dtype=dtype))
    assert drawn.dtype == dtype
    assert drawn.isfinite().all()
    assert drawn.max() < 1
    assert normal(torch.zeros(64, 256, dtype=dtype), streams(64)).isfinite().all()


def test_modules_are_initialised_by_their_seed_and_nothing_else_moves() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    found = []
    for before, seed in ((0, 1), (5, 1), (0, 2)):
        torch.manual_seed(before)
        with initialised(seed):
            found.append(torch.nn.Linear(2, 2).weight.detach())
        if before == 0:
            assert torch.equal(torch.rand(3), expected)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
