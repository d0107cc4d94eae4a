"""Radii that remember their text, and balls whose projection, steepest step and draws are what geometry says."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.errors import BadInput
from sparring.randomness import Generator, SampleStreams
from sparring.threat import Budget, Ratio, Threat, box, per_sample

NORMS = ["Linf", "L2", "L1"]
MANY = 20_000
cases = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def randn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def perturbations(draw: st.DrawFn) -> Tensor:
    """(B, C, H, W) of very different sizes, some samples and some pixels exactly zero."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    seed, dtype = draw(st.integers(0, 10_000)), draw(st.sampled_from([torch.float32, torch.float64]))
    scale = 10 ** randn((shape[0], 1, 1, 1), seed, dtype).clamp(-3, 3)
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1)) < draw(st.sampled_from([0.3, 1.0]))
    return randn(shape, seed + 2, dtype) * scale * keep


def size(norm: str, delta: Tensor) -> Tensor:
    rows = delta.double().flatten(1)
    return torch.linalg.vector_norm(rows, {"Linf": math.inf, "L2": 2, "L1": 1}[norm], dim=1)


def dual(norm: str, gradient: Tensor) -> Tensor:
    return size({"Linf": "L1", "L2": "L2", "L1": "Linf"}[norm], gradient)


def inner(one: Tensor, other: Tensor) -> Tensor:
    return (one.double() * other.double()).flatten(1).sum(1)


def ulp(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps


# Ratio


@pytest.mark.parametrize(
    ("written", "exact"),
    [
        ("8/255", Fraction(8, 255)),
        ("0.03", Fraction(3, 100)),
        ("8 / 255", Fraction(8, 255)),
        (" 8\t/255 ", Fraction(8, 255)),
        ("1e-3", Fraction(1, 1000)),
        ("-2/255", Fraction(-2, 255)),
        ("16/510", Fraction(8, 255)),
        (2, Fraction(2)),
        (0.5, Fraction(1, 2)),
        (0.1, Fraction(1, 10)),
        (Fraction(1, 3), Fraction(1, 3)),
    ],
)
def test_a_ratio_keeps_its_text_and_its_exact_value(written: str | float, exact: Fraction) -> None:
    ratio = Ratio(written)
    assert str(ratio) == repr(ratio) == f"{ratio}" == str(written)
    assert ratio.exact == exact
    assert float(ratio) == float(exact)
    assert ratio == float(exact)


def test_a_ratio_is_a_number() -> None:
    ratio = Ratio("8/255")
    assert ratio == 8 / 255
    assert hash(ratio) == hash(8 / 255)
    assert ratio == Ratio("16/510")
    assert ratio / 4 == 8 / 255 / 4
    assert type(ratio / 4) is float
    assert torch.equal(torch.ones(2, dtype=torch.float64) * ratio, torch.full((2,), 8 / 255, dtype=torch.float64))


def test_a_ratio_of_a_ratio_is_still_written_the_same() -> None:
    assert Ratio(Ratio("8/255")).text == "8/255"


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda ratio: pickle.loads(pickle.dumps(ratio))])
def test_copies_of_a_ratio_are_complete(twin: Callable[[Any], Any]) -> None:
    ratio = Ratio("8/255")
    other = twin(ratio)
    assert type(other) is Ratio
    assert (other.text, other.exact, float(other)) == (ratio.text, ratio.exact, float(ratio))
    threat = twin(Threat("L2", "128/255"))
    assert threat == Threat("L2", "128/255")
    assert threat.eps.text == "128/255"


@pytest.mark.parametrize(
    "text", ["", "eight", "8/0", "nan", "inf", "-inf", "8/255/2", "8//255", "8/2.5", "None", "8 255", "8 8/255"]
)
def test_what_is_not_a_number_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"is not a number: write a decimal such as 0\.03 or a fraction such as 8/255"):
        Ratio(text)


def test_a_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(BadInput):
        Ratio("1e400")


# Threat


def test_the_default_threat_is_the_fields_standard() -> None:
    assert Threat() == Threat("Linf", "8/255")
    assert str(Threat().eps) == "8/255"
    with pytest.raises(FrozenInstanceError):
        Threat().eps = Ratio(1)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("norm", "eps", "message"),
    [
        ("Linf", 8, "eps 8 is at least the whole pixel range [0, 1]: did you mean 8/255?"),
        ("Linf", "1", "eps 1 is at least the whole pixel range [0, 1]: did you mean 1/255?"),
        (
            "Linf",
            0,
            "eps must be positive, not 0: for training without an attack choose the method Standard.",
        ),
        (
            "L2",
            "-8/255",
            "eps must be positive, not -8/255: for training without an attack choose the method Standard.",
        ),
        ("L3", "8/255", "Unknown norm 'L3': write Linf, L2 or L1."),
        ("linf", "8/255", "Unknown norm 'linf': write Linf, L2 or L1."),
    ],
)
def test_a_threat_that_cannot_be_is_refused(norm: str, eps: str | float, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        Threat(norm, eps)
    assert str(caught.value) == message


def test_a_large_l2_radius_is_fine() -> None:
    assert Threat("L2", 3).eps == 3


@pytest.mark.parametrize("norm", NORMS)
def test_size_is_the_norm_of_each_sample(norm: str) -> None:
    delta = randn((7, 3, 4, 5), 0)
    measured = {"Linf": lambda row: max(row), "L2": lambda row: math.hypot(*row), "L1": math.fsum}[norm]
    expected = [measured(row.abs().flatten().tolist()) for row in delta]
    torch.testing.assert_close(Threat(norm, 0.5).size(delta), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("norm", NORMS)
@cases
@given(delta=perturbations(), eps=st.floats(1e-3, 0.9))
def test_the_projection_is_inside_and_stays_where_it_is(norm: str, delta: Tensor, eps: float) -> None:
    threat = Threat(norm, eps)
    inside = threat.project(delta)
    assert inside.shape == delta.shape
    assert inside.dtype == delta.dtype
    assert (size(norm, inside) <= float(threat.eps) * (1 + 4 * ulp(delta))).all()
    torch.testing.assert_close(threat.project(inside), inside, rtol=4 * ulp(delta), atol=0)
    already = size(norm, delta) <= eps * (1 - 4 * ulp(delta))
    assert torch.equal(inside[already], delta[already])


@pytest.mark.parametrize("norm", NORMS)
@cases
@given(delta=perturbations(), eps=st.floats(1e-3, 0.9), seed=st.integers(0, 1000))
def test_no_other_point_of_the_ball_is_nearer(norm: str, delta: Tensor, eps: float, seed: int) -> None:
    """p is the nearest point of a convex set exactly if <delta - p, z - p> <= 0 for all z in it."""
    threat, delta = Threat(norm, eps), delta.double()
    nearest = threat.project(delta)
    for number in range(10):
        other = threat.draw(delta, generator=torch.Generator().manual_seed(seed + number))
        corner = float(threat.eps) * threat.steepest(randn(tuple(delta.shape), seed + number))
        for point in (other, corner, (nearest + corner) / 2):
            obtuse = inner(delta - nearest, point - nearest)
            assert (obtuse <= 1e-12 * (1 + size("L2", delta))).all()


def test_the_projections_have_their_closed_forms() -> None:
    delta = randn((20, 3, 4, 4), 3)
    linf = [[min(max(value, -0.25), 0.25) for value in row.flatten().tolist()] for row in delta]
    assert Threat("Linf", 0.25).project(delta).flatten(1).tolist() == linf
    norms = [math.sqrt(math.fsum(value**2 for value in row.flatten().tolist())) for row in delta]
    expected = torch.stack([row * min(1, 6.5 / norm) for row, norm in zip(delta, norms, strict=True)])
    torch.testing.assert_close(Threat("L2", 6.5).project(delta), expected)
    assert 0 < sum(norm < 6.5 for norm in norms) < 20  # both branches were seen


@pytest.mark.parametrize("norm", NORMS)
def test_an_argument_replaces_the_threats_own_radius(norm: str) -> None:
    threat, delta = Threat(norm, 0.5), 9 * randn((4, 1, 3, 3), 0)
    torch.testing.assert_close(threat.size(threat.project(delta)), torch.full((4,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(threat.size(threat.project(delta, 0.1)), torch.full((4,), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("norm", NORMS)
@cases
@given(delta=perturbations(), seed=st.integers(0, 1000))
def test_radii_per_sample_equal_one_sample_at_a_time(norm: str, delta: Tensor, seed: int) -> None:
    threat = Threat(norm, 0.5)
    radii = torch.rand(len(delta), generator=torch.Generator().manual_seed(seed), dtype=delta.dtype)
    one_by_one = [threat.project(delta[i : i + 1], radii[i].item()) for i in range(len(delta))]
    torch.testing.assert_close(threat.project(delta, radii), torch.cat(one_by_one), rtol=8 * ulp(delta), atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_draws_take_radii_per_sample(norm: str) -> None:
    threat, like, radii = Threat(norm, 0.5), torch.zeros(5, 1, 3, 3), torch.tensor([0.0, 0.1, 0.2, 0.4, 0.8])
    drawn = threat.draw(like, radii, SampleStreams(0, torch.arange(5)))
    unit = threat.draw(like, 1.0, SampleStreams(0, torch.arange(5)))
    torch.testing.assert_close(drawn, unit * radii[:, None, None, None])


@pytest.mark.parametrize("norm", NORMS)
@cases
@given(gradient=perturbations(), seed=st.integers(0, 1000))
def test_no_step_of_unit_norm_climbs_more_than_the_steepest(norm: str, gradient: Tensor, seed: int) -> None:
    threat = Threat(norm, 0.5)
    step = threat.steepest(gradient)
    assert step.shape == gradient.shape
    assert (size(norm, step) <= 1 + 8 * ulp(gradient)).all()
    torch.testing.assert_close(inner(gradient, step), dual(norm, gradient), rtol=1e-5, atol=1e-12)
    other = threat.project(randn(tuple(gradient.shape), seed), 1.0)
    assert (inner(gradient, other) <= inner(gradient, step) * (1 + 1e-5) + 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nothing_to_climb_means_no_step(norm: str, dtype: torch.dtype) -> None:
    zero = torch.zeros(2, 1, 3, 3, dtype=dtype)
    assert torch.equal(Threat(norm, 0.5).steepest(zero), zero)
    assert torch.equal(Threat(norm, 0.5).project(zero), zero)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-6, 1e-14, 1e-25])
def test_a_vanishing_gradient_still_gives_a_step_of_unit_norm(norm: str, scale: float) -> None:
    """A confident network's gradients are this small; an attack that gave up here would overrate it."""
    step = Threat(norm, 0.5).steepest(torch.full((1, 1, 2, 2), scale))
    torch.testing.assert_close(size(norm, step), torch.ones(1, dtype=torch.float64))


def sources() -> list[Generator]:
    return [torch.Generator().manual_seed(0), SampleStreams(0, torch.arange(MANY))]


@pytest.mark.parametrize("generator", sources(), ids=["generator", "streams"])
def test_linf_draws_are_uniform_in_the_cube(generator: Generator) -> None:
    drawn = Threat("Linf", 0.25).draw(torch.zeros(MANY, 1, 1, 3, dtype=torch.float64), generator=generator).flatten(1)
    assert drawn.abs().max() <= 0.25
    assert drawn.min() < -0.2499
    assert drawn.max() > 0.2499
    unit = drawn / 0.25
    for power, moment in [(1, 0), (2, 1 / 3), (3, 0), (4, 1 / 5)]:
        deviation = math.sqrt((1 / (2 * power + 1) - moment**2) / unit.numel())
        assert abs((unit**power).mean() - moment) < 4 * deviation, power
    assert (torch.corrcoef(unit.T) - torch.eye(3)).abs().max() * math.sqrt(MANY) < 4


@pytest.mark.parametrize("generator", sources(), ids=["generator", "streams"])
@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 2), (3, 2, 2)])
def test_l2_draws_fill_the_volume_of_the_ball(generator: Generator, shape: tuple[int, int, int]) -> None:
    """The radius has E[r / eps] = d / (d + 1), (r / eps)^d is uniform, the direction has covariance 1 / d."""
    dimension = math.prod(shape)
    drawn = Threat("L2", 0.5).draw(torch.zeros(MANY, *shape, dtype=torch.float64), generator=generator).flatten(1)
    radius = drawn.norm(dim=1) / 0.5
    assert radius.max() <= 1 + 1e-12
    variance = dimension / (dimension + 2) - (dimension / (dimension + 1)) ** 2
    assert abs(radius.mean() - dimension / (dimension + 1)) < 4 * math.sqrt(variance / MANY)
    volume = (radius**dimension).sort().values
    assert (volume - (torch.arange(MANY) + 0.5) / MANY).abs().max() * math.sqrt(MANY) < 1.95
    direction = drawn / drawn.norm(dim=1, keepdim=True)
    assert direction.mean(0).abs().max() * math.sqrt(MANY * dimension) < 4.5
    covariance = direction.T @ direction / MANY
    assert (covariance * dimension - torch.eye(dimension)).abs().max() * math.sqrt(MANY) < 5
    fourth = 3 / (dimension * (dimension + 2))  # E[u_i^4] on the sphere, which a normalised cube does not have
    spread_of_fourth = math.sqrt(105 / math.prod(dimension + n for n in (0, 2, 4, 6)) - fourth**2)
    assert abs((direction**4).mean() - fourth) < 4 * spread_of_fourth / math.sqrt(MANY)
    for coordinate in direction.T:  # the radius knows nothing of the direction
        correlation = torch.corrcoef(torch.stack([radius**dimension, coordinate**2]))[0, 1]
        assert abs(correlation) * math.sqrt(MANY) < 4.5


@pytest.mark.parametrize("norm", NORMS)
@cases
@given(like=perturbations(), eps=st.floats(1e-3, 0.9), seed=st.integers(0, 1000), streams=st.booleans())
def test_draws_stay_in_the_ball(norm: str, like: Tensor, eps: float, seed: int, streams: bool) -> None:
    generator = SampleStreams(seed, torch.arange(len(like))) if streams else torch.Generator().manual_seed(seed)
    threat = Threat(norm, eps)
    drawn = threat.draw(like, generator=generator)
    assert drawn.shape == like.shape
    assert drawn.dtype == like.dtype
    assert (size(norm, drawn) <= float(threat.eps) * (1 + 4 * ulp(like))).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_samples_draw_does_not_depend_on_its_batch(norm: str) -> None:
    threat, index = Threat(norm, 0.5), torch.tensor([4, 1, 7])
    whole = threat.draw(torch.zeros(9, 1, 3, 3), generator=SampleStreams(2, torch.arange(9)))
    assert torch.equal(threat.draw(torch.zeros(3, 1, 3, 3), generator=SampleStreams(2, index)), whole[index])


# box, per_sample, Budget


@cases
@given(delta=perturbations(), seed=st.integers(0, 1000))
def test_the_box_keeps_images_images(delta: Tensor, seed: int) -> None:
    x = torch.rand(delta.shape, generator=torch.Generator().manual_seed(seed), dtype=delta.dtype)
    x[:, :, :1, :1] = x[:, :, :1, :1].round()  # black and white pixels too
    kept = box(x, delta)
    assert (x + kept).min() >= 0
    assert (x + kept).max() <= 1
    assert (kept.abs() <= delta.abs() + ulp(x)).all()  # so that it stays in every ball
    assert (kept * delta >= 0).all()
    free = (x + delta >= 0) & (x + delta <= 1)
    torch.testing.assert_close(kept[free], delta[free], rtol=0, atol=ulp(x))
    torch.testing.assert_close(x + kept, (x + delta).clamp(0, 1), rtol=0, atol=ulp(x))


def test_spread_shapes_values_per_sample_only() -> None:
    like = torch.zeros(3, 2, 4, 4)
    assert per_sample(torch.arange(3.0), like).shape == (3, 1, 1, 1)
    assert per_sample(torch.arange(3.0), like[:, 0, 0]).shape == (3, 1)
    assert per_sample(0.5, like) == 0.5
    assert (like + per_sample(torch.arange(3.0), like))[:, 1, 2, 3].tolist() == [0.0, 1.0, 2.0]


def test_a_budget_goes_round_as_often_as_it_has_steps() -> None:
    assert Budget(0.1, 0.02, 7).rounds == 7
    assert Budget(0.1, 0.02, 0).rounds == 0
    assert Budget(0.1, 0.02, torch.tensor([1, 3]), rounds=3).rounds == 3
    assert Budget(0.1, 0.02, 7, rounds=2).rounds == 2


def test_a_budget_with_steps_per_sample_needs_rounds() -> None:
    with pytest.raises(BadInput, match="needs rounds, the largest number of steps"):
        Budget(0.1, 0.02, torch.tensor([1, 3]))
