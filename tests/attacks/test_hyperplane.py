"""Ways to hyperplanes in the box against bisection, SciPy, pyautoattack, and the conditions that only the shortest meets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.fab_projections import projection_l1, projection_l2, projection_linf
from scipy.optimize import linprog, minimize
from torch import Tensor

from sparring.attacks.hyperplane import way_to_hyperplane
from sparring.errors import BadInput
from sparring.norms import NormName as Norm
from sparring.norms import norm_named
from sparring.threat import Threat

NORMS: tuple[Norm, ...] = ("Linf", "L2", "L1")
THEIRS = {"Linf": projection_linf, "L2": projection_l2, "L1": projection_l1}
both_norms = pytest.mark.parametrize("norm", NORMS)


def problems(count: int, size: int, seed: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals and excesses in float64: a fifth of the pixels at either bound, a tenth of the weights zero, weights
    of very different sizes, planes on both sides of the points at about `share` of the way that the box allows."""
    draw = torch.Generator().manual_seed(seed)
    x = (torch.rand(count, size, generator=draw, dtype=torch.float64) * 1.5 - 0.25).clamp(0, 1)
    w = torch.randn(count, size, generator=draw, dtype=torch.float64)
    w = w * torch.randn(count, size, generator=draw, dtype=torch.float64).exp()
    w = w * (torch.rand(count, size, generator=draw) > 0.1)
    side = torch.where(torch.rand(count, generator=draw) < 0.5, -1.0, 1.0).double()
    return x, w, side * share * reach(x, w, side)


def reach(x: Tensor, w: Tensor, excess: Tensor) -> Tensor:
    """How much of an excess of that sign (N,) the box lets go: the change of <w, z> from x to the corner."""
    corner = ((w > 0) != (excess >= 0)[:, None]).to(x)
    return (w * (corner - x)).sum(1).abs()


def size_of(way: Tensor, norm: Norm) -> Tensor:
    return Threat(norm, 0.5).size(way.view(*way.shape, 1, 1))


def bisected(x: Tensor, w: Tensor, excess: Tensor, norm: Norm) -> Tensor:
    """The same by halving the level 200 times; in L1 by giving the way to one component after the other."""
    direction = -w.sign() * torch.where(excess >= 0, 1.0, -1.0)[:, None]
    room = torch.where(direction < 0, x, 1 - x) * (w.abs() > (0 if norm == "Linf" else 1e-8))
    if norm == "L1":
        return direction * taken_in_turn(w.abs(), room, excess.abs())
    speed = w.abs() if norm == "L2" else torch.ones_like(w)
    low, high = torch.zeros(len(x), 1).double(), torch.full((len(x), 1), 1e12).double()
    for _ in range(200):
        middle = (low + high) / 2
        enough = (w.abs() * torch.minimum(middle * speed, room)).sum(1, keepdim=True) >= excess.abs()[:, None]
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return direction * torch.minimum(high * speed, room)


def taken_in_turn(steepness: Tensor, room: Tensor, total: Tensor) -> Tensor:
    lengths = torch.zeros_like(room)
    for row in range(len(room)):
        left = total[row].item()
        for i in steepness[row].argsort(descending=True).tolist():
            if steepness[row, i] <= 1e-8:
                break
            lengths[row, i] = min(room[row, i].item(), left / steepness[row, i].item())
            left = max(left - (steepness[row, i] * room[row, i]).item(), 0)
    return lengths


# Oracles ---------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    norm=st.sampled_from(NORMS),
    size=st.sampled_from([1, 2, 3, 10, 100]),
    share=st.sampled_from([0.0, 1e-6, 0.01, 0.3, 0.7, 0.99, 1.5]),
    seed=st.integers(0, 1000),
)
def test_the_ways_are_those_of_a_slow_search_for_the_level(norm: Norm, size: int, share: float, seed: int) -> None:
    x, w, excess = problems(20, size, seed, share)
    way = way_to_hyperplane(x, w, excess, norm)
    torch.testing.assert_close(way, bisected(x, w, excess, norm), rtol=0, atol=1e-12)


@both_norms
@pytest.mark.parametrize("share", [1e-4, 0.01, 0.2, 0.5, 0.9, 1.0001, 3.0])
@pytest.mark.parametrize("size", [2, 7, 64, 300])
def test_the_ways_are_pyautoattack_s(norm: Norm, share: float, size: int, double_precision: None) -> None:
    """Where the box binds, where it does not, and where it keeps the plane out of reach."""
    x, w, excess = problems(100, size, 1, share)
    way = way_to_hyperplane(x, w, excess, norm)
    theirs = THEIRS[norm](x, w, (w * x).sum(1) - excess)
    assert ((x + way - (x + way).round()).abs() < 1e-12).any()  # some pixels of some images at their bounds
    torch.testing.assert_close(way, theirs, rtol=0, atol=1e-11)


def test_scipy_finds_no_shorter_way_in_linf() -> None:
    """The least t with |d| <= t is a linear program in (d, t)."""
    x, w, excess = problems(25, 6, 2, 0.6)
    lengths = size_of(way_to_hyperplane(x, w, excess, "Linf"), "Linf")
    ones, eye = np.ones((6, 1)), np.eye(6)
    for point, normal, height, length in zip(x.numpy(), w.numpy(), excess.numpy(), lengths.tolist(), strict=True):
        best = linprog(
            c=[0] * 6 + [1],
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(12),
            A_eq=np.append(normal, 0)[None],
            b_eq=[-height],
            bounds=[*zip(-point, 1 - point, strict=True), (0, None)],
        )
        assert best.status == 0
        assert length == pytest.approx(best.fun, abs=1e-9)


def test_scipy_finds_no_shorter_way_in_l1() -> None:
    """The least sum of a with |d| <= a is a linear program in (d, a)."""
    x, w, excess = problems(25, 6, 2, 0.6)
    lengths = size_of(way_to_hyperplane(x, w, excess, "L1"), "L1")
    eye = np.eye(6)
    for point, normal, height, length in zip(x.numpy(), w.numpy(), excess.numpy(), lengths.tolist(), strict=True):
        best = linprog(
            c=[0] * 6 + [1] * 6,
            A_ub=np.block([[eye, -eye], [-eye, -eye]]),
            b_ub=np.zeros(12),
            A_eq=np.append(normal, np.zeros(6))[None],
            b_eq=[-height],
            bounds=[*zip(-point, 1 - point, strict=True), *[(0, None)] * 6],
        )
        assert best.status == 0
        assert length == pytest.approx(best.fun, abs=1e-9)


def test_a_norm_without_a_way_is_refused() -> None:
    x, w, excess = problems(2, 3, 1, 0.5)
    with pytest.raises(BadInput, match="The way to a hyperplane does not exist in L3: choose Linf or L2 or L1"):
        way_to_hyperplane(x, w, excess, "L3")  # type: ignore[arg-type]


def test_scipy_finds_the_same_way_in_l2() -> None:
    x, w, excess = problems(15, 6, 3, 0.6)
    ways = way_to_hyperplane(x, w, excess, "L2")
    for point, normal, height, way in zip(x.numpy(), w.numpy(), excess.numpy(), ways.numpy(), strict=True):
        best = minimize(
            lambda d: d @ d / 2,
            np.zeros(6),
            jac=lambda d: d,
            method="SLSQP",
            bounds=[*zip(-point, 1 - point, strict=True)],
            constraints={
                "type": "eq",
                "fun": lambda d, normal=normal, height=height: normal @ d + height,
                "jac": lambda _, normal=normal: normal,
            },
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert best.success
        assert way == pytest.approx(best.x, abs=1e-6)


# What only the shortest way fulfils ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    norm=st.sampled_from(NORMS),
    size=st.integers(1, 60),
    share=st.floats(0, 2),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_way_leads_to_the_plane_or_else_to_the_corner_and_stays_in_the_box(norm, size, share, seed, dtype) -> None:
    x, w, excess = (value.to(dtype) for value in problems(10, size, seed, share))
    way = way_to_hyperplane(x, w, excess, norm)
    assert way.dtype == dtype
    assert (x + way).min() >= 0
    assert (x + way).max() <= 1
    x, w, excess, way = (value.double() for value in (x, w, excess, way))
    within_reach = torch.minimum(excess.abs(), reach(x, w, excess)) * excess.sign()
    scale = 1e-14 if dtype == torch.float64 else 3e-6
    assert ((w * way).sum(1) + within_reach).abs().max() <= scale * (1 + w.abs().sum(1).max())


@settings(deadline=None, max_examples=60, derandomize=True)
@given(size=st.integers(1, 60), share=st.floats(0.001, 0.999), seed=st.integers(0, 1000))
def test_in_linf_all_that_move_less_than_the_farthest_stand_at_their_bounds(size, share, seed) -> None:
    """Then no ball that is smaller contains a point of the plane."""
    x, w, excess = problems(10, size, seed, share)
    way = way_to_hyperplane(x, w, excess, "Linf")
    less = (way.abs() < way.abs().amax(1, keepdim=True) - 1e-12) & (w != 0)
    at_bound = torch.minimum(x + way, 1 - x - way) < 1e-12
    assert at_bound[less].all()
    assert (way * w * excess[:, None] <= 0).all()  # nobody moves the wrong way


@settings(deadline=None, max_examples=60, derandomize=True)
@given(size=st.integers(1, 60), share=st.floats(0.001, 0.999), seed=st.integers(0, 1000))
def test_in_l2_the_way_meets_the_conditions_of_karush_kuhn_and_tucker(size, share, seed) -> None:
    """d = -mu w where the box leaves room; where it does not, d falls short of that."""
    x, w, excess = problems(10, size, seed, share)
    way = way_to_hyperplane(x, w, excess, "L2")
    inside = (torch.minimum(x + way, 1 - x - way) > 1e-9) & (w.abs() > 1e-6)
    for d, normal, free, at in zip(way, w, inside, x + way, strict=True):
        if not free.any():
            continue
        ratios = -d[free] / normal[free]
        mu = ratios.mean()
        torch.testing.assert_close(ratios, mu.expand_as(ratios), rtol=0, atol=1e-9)
        short = d + mu * normal  # the box's multipliers
        assert (short[at < 1e-9] >= -1e-8).all()
        assert (short[at > 1 - 1e-9] <= 1e-8).all()
        assert short[free].abs().max() <= 1e-8


@both_norms
def test_without_bounds_in_the_way_the_length_is_the_excess_over_the_dual_norm(norm: Norm) -> None:
    _, w, excess = problems(50, 20, 4, 0.01)
    x = torch.full_like(w, 0.5)
    length = size_of(way_to_hyperplane(x, w, excess, norm), norm)
    torch.testing.assert_close(length, excess.abs() / norm_named(norm).dual_size(w), rtol=1e-12, atol=0)


@both_norms
def test_the_dual_norm_is_the_steepest_direction_s_gain(norm: Norm) -> None:
    w = problems(50, 20, 5, 0)[1]
    steepest = Threat(norm, 0.5).steepest(w.view(50, 20, 1, 1)).flatten(1)
    torch.testing.assert_close(norm_named(norm).dual_size(w), (w * steepest).sum(1))
    torch.testing.assert_close(norm_named(norm).dual_size(w.view(5, 10, 20)), norm_named(norm).dual_size(w).view(5, 10))


# Corners and precision -------------------------------------------------------------------------------------------------


@both_norms
def test_points_on_the_plane_stay(norm: Norm) -> None:
    x, w, _ = problems(20, 30, 6, 0)
    w[0] = 0
    assert not way_to_hyperplane(x, w, torch.zeros(20).double(), norm).any()


@both_norms
def test_pixels_at_their_bounds_do_not_leave_and_the_others_make_up_for_them(norm: Norm) -> None:
    x = torch.tensor([[0.0, 0.5, 0.5], [1.0, 0.5, 0.5]]).double()
    w = torch.tensor([[5.0, 1.0, 1.0], [-5.0, 1.0, 1.0]]).double()
    way = way_to_hyperplane(x, w, torch.tensor([0.4, 0.4]).double(), norm)
    if norm == "L1":  # which of two equals goes is all the same
        way = torch.cat([way[:, :1], way[:, 1:].mean(1, keepdim=True).expand(-1, 2)], 1)
    torch.testing.assert_close(way, torch.tensor([[0.0, -0.2, -0.2]] * 2).double())


@both_norms
def test_a_plane_that_the_box_misses_sends_to_the_nearest_corner(norm: Norm) -> None:
    x = torch.tensor([[0.2, 0.3, 0.4]] * 2).double()
    w = torch.tensor([[1.0, -2.0, 0.0]] * 2).double()
    way = way_to_hyperplane(x, w, torch.tensor([10.0, -10.0]).double(), norm)
    torch.testing.assert_close(x + way, torch.tensor([[0.0, 1.0, 0.4], [1.0, 0.0, 0.4]]).double())


@both_norms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_without_weight_do_not_move(norm: Norm, dtype: torch.dtype) -> None:
    """In L2 and L1 weights of 1e-8 and less are none; in Linf only 0 is. In L1 the steepest is enough."""
    x = torch.full((4, 3), 0.5, dtype=dtype)
    w = torch.tensor([[0, 1, 1], [9e-9, 1, 1], [2e-8, 1, 1], [0, 0, 0]], dtype=dtype)
    moved = way_to_hyperplane(x, w, torch.tensor([0.1, 0.1, 0.1, 0.1], dtype=dtype), norm) != 0
    assert moved[:, 0].tolist() == [False, norm == "Linf", norm != "L1", False]
    assert moved[:, 1:].any(1).tolist() == [True, True, True, False]
    assert norm == "L1" or torch.equal(moved[:, 1], moved[:, 2])


@both_norms
@pytest.mark.parametrize("disparity", [1, 3, 6])
@pytest.mark.parametrize("share", [1e-4, 0.01, 0.3, 0.9, 0.9999, 1 - 1e-7])
def test_single_precision_loses_no_more_than_its_own_rounding(norm: Norm, share: float, disparity: int) -> None:
    """3072 pixels, and weights and excesses that float32 holds exactly: what differs is the way's own arithmetic.

    Weights that differ by up to exp(3 disparity) and more put some breakpoints far out; shares of almost 1 leave a rest
    that is nothing but rounding.
    """
    x, w, _ = problems(30, 3072, 7, 0)
    w = (w.sign() * w.abs() ** disparity).float()
    x, side = x.float(), torch.tensor([1.0, -1.0]).repeat(15)
    excess = (side * share * reach(x.double(), w.double(), side.double())).float()
    way = way_to_hyperplane(x, w, excess, norm).double()
    exact = way_to_hyperplane(x.double(), w.double(), excess.double(), norm)
    gap = (w.double() * (way - exact)).sum(1).abs() / excess.double().abs()
    assert gap.max() < 1e-6  # of <w, z>, relative to what has to go
    if share < 0.5:  # beyond, little of <w, z> is far to go
        # In L1 a single pixel makes up for the rounding of all 1 - x that came before it.
        assert (way - exact).abs().max() < (5e-7 if norm == "L1" else 3e-7)


@both_norms
def test_a_way_does_not_depend_on_the_others(norm: Norm) -> None:
    x, w, excess = problems(30, 50, 8, 0.4)
    whole = way_to_hyperplane(x, w, excess, norm)
    for size in (1, 7):
        parts = [way_to_hyperplane(*part, norm) for part in zip(*(v.split(size) for v in (x, w, excess)), strict=True)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-14)
