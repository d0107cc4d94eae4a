"""What is L1's own: exact projections, sparse steps, draws; and that nobody falls back on another norm's ways."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import L1_projection
from scipy.optimize import minimize
from torch import Tensor

from sparring.errors import BadInput
from sparring.norms import by_norm, norm_named, sparse_step
from sparring.randomness import SampleStreams
from sparring.threat import Threat

L1 = norm_named("L1")
MANY = 20_000


def problems(count: int, numbers: int, seed: int, scale: float) -> tuple[Tensor, Tensor]:
    """Images, a quarter of whose pixels are black or white, and perturbations, a fifth of them zero, in float64."""
    draw = torch.Generator().manual_seed(seed)
    x = (torch.rand(count, 1, 1, numbers, generator=draw, dtype=torch.float64) * 1.3 - 0.15).clamp(0, 1)
    delta = scale * torch.randn(x.shape, generator=draw, dtype=torch.float64)
    return x, delta * (torch.rand(x.shape, generator=draw) > 0.2)


def bisected(delta: Tensor, room: Tensor, eps: float) -> Tensor:
    """The projection by halving the level, 200 times."""
    length = delta.abs()
    low, high = torch.zeros(len(delta), 1, 1, 1).double(), length.amax((1, 2, 3), keepdim=True)
    for _ in range(200):
        middle = (low + high) / 2
        fits = torch.minimum((length - middle).clamp_min(0), room).sum((1, 2, 3), keepdim=True) <= eps
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    whole = torch.minimum(length, room)
    inside = whole.sum((1, 2, 3), keepdim=True) <= eps
    return delta.sign() * torch.where(inside, whole, torch.minimum((length - high).clamp_min(0), room))


anything = given(
    numbers=st.sampled_from([1, 2, 3, 10, 300]),
    scale=st.sampled_from([0.01, 0.3, 1.0, 30.0]),
    eps=st.sampled_from([0.01, 0.5, 3.0, 40.0]),
    seed=st.integers(0, 1000),
)


@settings(deadline=None, max_examples=80, derandomize=True)
@anything
def test_the_nearest_image_of_ball_and_box_is_that_of_a_slow_search(numbers, scale, eps, seed) -> None:
    x, delta = problems(20, numbers, seed, scale)
    expected = bisected(delta, torch.where(delta < 0, x, 1 - x), eps)
    torch.testing.assert_close(L1.image(x, delta, eps) - x, expected, rtol=0, atol=1e-12 * max(1, scale))


@settings(deadline=None, max_examples=80, derandomize=True)
@anything
def test_the_nearest_perturbation_of_the_ball_is_that_of_a_slow_search(numbers, scale, eps, seed) -> None:
    _, delta = problems(20, numbers, seed, scale)
    expected = bisected(delta, torch.full_like(delta, torch.inf), eps)
    torch.testing.assert_close(L1.project(delta, eps), expected, rtol=0, atol=1e-12 * max(1, scale))


@pytest.mark.parametrize("box", [True, False])
def test_scipy_finds_the_same_points(box: bool) -> None:
    """A quadratic program in the lengths: nobody's sign changes on the way to the nearest point."""
    x, delta = problems(15, 6, 1, 0.6)
    room = torch.where(delta < 0, x, 1 - x) if box else torch.full_like(x, 9)
    ours = (L1.image(x, delta, 0.8) - x if box else L1.project(delta, 0.8)).flatten(1).numpy()
    for far, limits, way in zip(delta.flatten(1).numpy(), room.flatten(1).numpy(), ours, strict=True):
        best = minimize(
            lambda s, far=far: ((s - np.abs(far)) ** 2).sum() / 2,
            np.zeros(6),
            jac=lambda s, far=far: s - np.abs(far),
            method="SLSQP",
            bounds=[(0, limit) for limit in limits],
            constraints={"type": "ineq", "fun": lambda s: 0.8 - s.sum(), "jac": lambda s: -np.ones_like(s)},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert best.success
        assert way == pytest.approx(np.sign(far) * best.x, abs=1e-6)


def test_the_nearest_image_is_autoattack_s(double_precision: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    for scale in (0.05, 1.0, 5.0):
        x, delta = problems(50, 200, 3, scale)
        theirs = delta + L1_projection(x, delta, 3.0)
        torch.testing.assert_close(L1.image(x, delta, 3.0) - x, theirs, rtol=0, atol=1e-12)


def test_pixels_that_the_projection_gives_up_are_the_image_s_to_the_last_bit() -> None:
    """AutoAttack's differences leave them a rounding apart, and its count of changed pixels counts them."""
    x, delta = (value.float() for value in problems(30, 500, 5, 1.0))
    ours = L1.image(x, delta, 5.0)
    theirs = x + delta + L1_projection(x, delta, 5.0)
    changed, close = (ours != x).sum(), (theirs - x).abs() < 1e-6
    assert (theirs != x).sum() > 2 * changed
    assert torch.equal(ours == x, close | (ours == x))


@pytest.mark.parametrize("eps", [0.5, 12.0, 100.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_single_precision_stays_inside_but_for_its_rounding(eps: float, scale: float) -> None:
    """3072 numbers: of the perturbation not at all outside, of the image by no more than is allowed for."""
    x, delta = (value.float() for value in problems(50, 3072, 7, scale))
    assert (L1.size(L1.project(delta, eps).double()) <= eps).all()
    image = L1.image(x, delta, eps)
    size = L1.size(image.double() - x.double())
    assert (size <= eps + L1.rounding(3072)).all()
    exact = L1.image(x.double(), delta.double(), eps)
    assert (image - exact).abs().max() < 1e-6 * max(1, scale)
    assert L1.rounding(3072) / 12 < 1e-5
    assert L1.rounding(10) == Threat().geometry.rounding(3072) == 1e-6


def test_radii_may_differ_from_image_to_image() -> None:
    x, delta = problems(6, 50, 2, 1.0)
    radii = torch.tensor([0.0, 0.1, 1.0, 5.0, 20.0, 1e4]).double()
    whole = L1.image(x, delta, radii)
    for row, radius in enumerate(radii.tolist()):
        alone = L1.image(x[row : row + 1], delta[row : row + 1], radius)
        torch.testing.assert_close(whole[row : row + 1], alone, rtol=0, atol=1e-14)
    torch.testing.assert_close(whole[0], x[0], rtol=0, atol=0)
    torch.testing.assert_close(whole[5], (x + delta).clamp(0, 1)[5])


@pytest.mark.parametrize(("numbers", "moved"), [(1, 1), (64, 1), (100, 1), (101, 2), (784, 8), (3072, 31)])
def test_a_step_moves_a_hundredth_of_the_numbers_as_far_each_and_none_of_that_kind_rises_more(numbers, moved) -> None:
    """The best of a linear function in |v_i| <= 1 / k and |v| <= 1 is the mean of its k greatest slopes."""
    gradient = torch.randn(20, 1, 1, numbers, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = L1.steepest(gradient)
    assert (step != 0).sum((1, 2, 3)).tolist() == [moved] * 20
    torch.testing.assert_close(L1.size(step), torch.ones(20, dtype=torch.float64))
    best = gradient.abs().flatten(1).sort(1).values[:, -moved:].mean(1)
    torch.testing.assert_close((step * gradient).flatten(1).sum(1), best)
    assert torch.equal(L1.largest_rise(gradient), gradient.abs().flatten(1).amax(1))


def test_a_step_shares_itself_out_among_equals_and_leaves_alone_what_has_no_slope() -> None:
    gradient = torch.zeros(3, 1, 1, 300)
    gradient[0, ..., :2], gradient[1] = torch.tensor([3.0, -4.0]), -1.0
    step = L1.steepest(gradient)
    assert step[0].nonzero()[:, -1].tolist() == [0, 1]
    assert step[0, 0, 0, :2].tolist() == [0.5, -0.5]
    torch.testing.assert_close(step[1], torch.full((1, 1, 300), -1 / 300))
    assert not step[2].any()


def test_a_sparse_step_keeps_each_image_s_own_share() -> None:
    gradient = torch.randn(4, 1, 1, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = sparse_step(gradient, torch.tensor([0.0, 0.125, 0.5, 1.0]).double())
    assert (step != 0).sum((1, 2, 3)).tolist() == [1, 5, 20, 40]
    torch.testing.assert_close(L1.size(step), torch.ones(4, dtype=torch.float64))
    assert (step * gradient >= 0).all()
    left = torch.where(step == 0, gradient.abs(), 0).flatten(1).amax(1)
    assert (left <= torch.where(step != 0, gradient.abs(), torch.inf).flatten(1).amin(1)).all()


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 2), (3, 2, 2)])
@pytest.mark.parametrize("streams", [True, False])
def test_draws_fill_the_volume_of_the_ball(shape: tuple[int, int, int], streams: bool) -> None:
    """(size / eps)^d is uniform; shares of the size are uniform on the simplex: E 1 / d, E^2 2 / (d (d + 1)); signs fair."""
    d, generator = (
        math.prod(shape),
        SampleStreams(0, torch.arange(MANY)) if streams else torch.Generator().manual_seed(0),
    )
    drawn = Threat("L1", 0.5).draw(torch.zeros(MANY, *shape, dtype=torch.float64), generator=generator).flatten(1)
    radius = drawn.abs().sum(1) / 0.5
    volume = (radius**d).sort().values
    assert (volume - (torch.arange(MANY) + 0.5) / MANY).abs().max() * math.sqrt(MANY) < 1.95
    shares = drawn.abs() / drawn.abs().sum(1, keepdim=True)
    square = 2 / (d * (d + 1))
    assert (shares.mean(0) - 1 / d).abs().max() < 4.5 * math.sqrt((square - 1 / d**2) / MANY)
    fourth = 24 / math.prod(range(d, d + 4))
    assert ((shares**2).mean(0) - square).abs().max() < 4.5 * math.sqrt((fourth - square**2) / MANY)
    signs = drawn.sign()
    assert signs.mean(0).abs().max() * math.sqrt(MANY) < 4.5
    assert (signs.T @ signs / MANY - torch.eye(d)).abs().max() * math.sqrt(MANY) < 4.5
    for values in (*shares.T, *signs.T):  # the radius knows nothing of the direction, nor signs of sizes
        correlation = torch.corrcoef(torch.stack([radius**d, values.double()]))[0, 1]
        assert abs(correlation) * math.sqrt(MANY) < 4.5
    assert abs(torch.corrcoef(torch.stack([shares[:, 0], signs[:, 0]]))[0, 1]) * math.sqrt(MANY) < 4.5


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_plain_grey_is_at_most_so_far_away(norm: str) -> None:
    geometry = norm_named(norm)
    black = torch.zeros(1, 3, 4, 4)
    assert geometry.size(black - 0.5).item() == pytest.approx(geometry.to_grey(48))


def test_a_norm_that_is_not_provided_for_is_refused() -> None:
    assert by_norm({"L2": 3}, "L2", "It") == 3
    with pytest.raises(BadInput, match=r"^FAB does not exist in L1: choose Linf or L2\.$"):
        by_norm({"Linf": 1, "L2": 2}, "L1", "FAB")
