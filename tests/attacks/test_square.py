"""Square against slow loops fed with the same draws, and against pyautoattack's: sides, starts, and what it breaks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from sparring.attacks import CountedModel
from sparring.attacks.square import Square, SquareState
from sparring.attacks.square_tiles import pattern, pattern_table
from sparring.errors import BadInput
from sparring.losses import margin
from sparring.randomness import drawn
from sparring.threat import Threat
from tests.attacks.harness import (
    Curved,
    after,
    assert_a_step_is_quiet,
    assert_batches_do_not_matter,
    assert_rows_do_not_meet,
    noisy_digits,
    pictures,
    streams,
)

LINF, L2, L1 = Threat("Linf", "1/10"), Threat("L2", "1/2"), Threat("L1", 2)
all_norms = pytest.mark.parametrize("threat", [LINF, L2, L1], ids=["Linf", "L2", "L1"])


def opened(x: Tensor, y: Tensor, threat: Threat) -> SquareState:
    """Without a network: the start asks none."""
    state = Square().init(x, y, torch.zeros(len(x), 4), 0, streams(len(x)), threat)
    assert isinstance(state, SquareState)
    return state


# The schedule ----------------------------------------------------------------------------------------------------------


def reference_side(norm: str, p: float, channels: int, height: int, width: int) -> int:
    """As the released code writes it."""
    side = round(math.sqrt(p * (channels * height * width) / channels))
    side = max(side, 1 if norm == "Linf" else 3)
    if norm != "Linf" and side % 2 == 0:
        side += 1
    return min(side, height, width)


def sides_tried(x: Tensor, steps: Tensor, search: Square, threat: Threat) -> Tensor:
    """The sides (L,) of the squares that queries change, where nothing had been changed before."""
    if threat.norm == "L1":
        threat = Threat("L1", 10**9)  # the projection onto a smaller ball gives the rim of a square up
    state = replace(opened(x, torch.zeros(len(x), dtype=torch.int64), threat), step=steps, point=x)
    query = search.step(CountedModel(Curved(shape=tuple(x.shape[1:]))), state, threat).candidate
    changed = (query != x).any(1)  # (L, H, W)
    assert torch.equal(changed.sum((1, 2)), changed.any(1).sum(1) * changed.any(2).sum(1))  # a rectangle
    assert torch.equal(changed.any(1).sum(1), changed.any(2).sum(1))  # a square
    return changed.any(1).sum(1)


@all_norms
@pytest.mark.parametrize(("shape", "p"), [((1, 8, 8), 0.8), ((3, 12, 12), 0.5)])
def test_the_side_of_every_query_is_that_of_autoattack(threat: Threat, shape, p) -> None:
    reference = SquareAttack(None, norm=threat.norm, p_init=p, resc_schedule=False)
    expected = [reference_side(threat.norm, reference.p_selection(query), *shape) for query in range(5000)]
    x = torch.full((5000, *shape), 0.5, dtype=torch.float64)
    assert sides_tried(x, torch.arange(1, 5001), Square(p=p), threat).tolist() == expected


@all_norms
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 28, 32, 64, 96, 224])
def test_the_sides_are_those_of_autoattack_in_images_of_any_size(threat: Threat, side: int) -> None:
    queries = [0, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001, 9999]
    for p in (0.05, 0.3, 0.8, 1.0):
        reference = SquareAttack(None, norm=threat.norm, p_init=p, resc_schedule=False)
        expected = [reference_side(threat.norm, reference.p_selection(query), 1, side, side) for query in queries]
        x = torch.full((len(queries), 1, side, side), 0.5)
        assert sides_tried(x, torch.tensor(queries) + 1, Square(p=p), threat).tolist() == expected


@all_norms
def test_in_images_that_are_not_square_squares_cover_the_same_share_as_far_as_they_fit(threat: Threat) -> None:
    x = torch.full((4, 2, 10, 40), 0.5)
    # p of 0.8 is 320 pixels: a side of 17.9 does not fit. Then it is 40 pixels, 6.3 a side, and at last 10, 3.2 a side.
    expected = [10, 10, 6 if threat.norm == "Linf" else 7, 3]
    assert sides_tried(x, torch.tensor([1, 12, 202, 1002]), Square(), threat).tolist() == expected


# One query -------------------------------------------------------------------------------------------------------------


def slow_pyramid(height: int, width: int) -> np.ndarray:
    grid = np.zeros((height, width))
    for k in range(1, max(height, width) // 2 + 2):
        for i in range(height):
            for j in range(width):
                if abs(i - height // 2) < k and abs(j - width // 2) < k:
                    grid[i, j] += 1 / k**2
    return grid / np.sqrt((grid**2).sum()) if grid.size else grid


def slow_pattern(side: int, turned: bool) -> np.ndarray:
    eta = np.concatenate([slow_pyramid(side // 2, side), -slow_pyramid(side - side // 2, side)])
    eta /= np.sqrt((eta**2).sum())
    return eta.T if turned else eta


def slow_place(draws: np.ndarray, side: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    top, left = (int(draw * (length - side)) for draw, length in zip(draws, shape[1:], strict=True))
    return slice(top, top + side), slice(left, left + side)


def slow_linf(x: np.ndarray, best: np.ndarray, draws: np.ndarray, side: int, eps: float) -> np.ndarray:
    change = np.zeros_like(x)
    rows, columns = slow_place(draws[:2], side, x.shape)
    for channel in range(len(x)):
        change[channel, rows, columns] = 2 * eps * (-1 if draws[2 + channel] < 0.5 else 1)
    return np.clip(np.clip(best + change, x - eps, x + eps), 0, 1)


def slow_l2(x: np.ndarray, best: np.ndarray, draws: np.ndarray, side: int, eps: float) -> np.ndarray:
    """Channel by channel and window by window, as in the paper's algorithm 3."""
    delta = best - x
    one, two = slow_place(draws[:2], side, x.shape), slow_place(draws[2:4], side, x.shape)
    union = np.zeros(x.shape[1:], dtype=bool)
    union[one] = union[two] = True
    left = max(eps**2 - (delta**2).sum(), 0)
    new = delta.copy()
    for channel in range(len(x)):
        sign = -1 if draws[5 + channel] < 0.5 else 1
        window = delta[channel][one]
        fresh = slow_pattern(side, draws[4] < 0.5) * sign + window / (1e-12 + np.sqrt((window**2).sum()))
        size = np.sqrt(left / len(x) + (delta[channel][union] ** 2).sum())
        new[channel][two] = 0
        new[channel][one] = fresh / (1e-12 + np.sqrt((fresh**2).sum())) * size
    return np.clip(x + eps * new / (1e-12 + np.sqrt((new**2).sum())), 0, 1)


def slow_l1_pattern(side: int, turned: bool) -> np.ndarray:
    halves = []
    for height in (side // 2, side - side // 2):
        grid = np.zeros((height, side))
        for k in range(1, side // 2 + 2):
            for i in range(height):
                for j in range(side):
                    if abs(i - height // 2) < k and abs(j - side // 2) < k:
                        grid[i, j] += 1 / k**4
        halves.append(grid / grid.sum() if height else grid)
    eta = np.concatenate([halves[0], -halves[1]])
    eta /= np.abs(eta).sum()
    return eta.T if turned else eta


def slow_projection(x: np.ndarray, delta: np.ndarray, eps: float) -> np.ndarray:
    """The nearest image of the L1 ball and the box, by halving the level."""
    room, low, high = np.where(delta < 0, x, 1 - x), 0.0, np.abs(delta).max()
    if np.minimum(np.abs(delta), room).sum() <= eps:
        return np.clip(x + delta, 0, 1)
    for _ in range(100):
        middle = (low + high) / 2
        enough = np.minimum(np.maximum(np.abs(delta) - middle, 0), room).sum() <= eps
        low, high = (low, middle) if enough else (middle, high)
    return x + np.sign(delta) * np.minimum(np.maximum(np.abs(delta) - high, 0), room)


def slow_l1(x: np.ndarray, best: np.ndarray, draws: np.ndarray, side: int, eps: float) -> np.ndarray:
    """As the released code has it: a window gets its share of what is left, and all that, once for every channel."""
    delta = best - x
    one, two = slow_place(draws[:2], side, x.shape), slow_place(draws[2:4], side, x.shape)
    union = np.zeros(x.shape[1:], dtype=bool)
    union[one] = union[two] = True
    left = max(eps - np.abs(delta).sum(), 0)
    new = delta.copy()
    for channel in range(len(x)):
        sign = -1 if draws[5 + channel] < 0.5 else 1
        window = delta[channel][one]
        fresh = slow_l1_pattern(side, draws[4] < 0.5) * sign + window / (1e-12 + np.abs(window).sum())
        size = (left / len(x) + np.abs(delta[channel][union]).sum()) * len(x)
        new[channel][two] = 0
        new[channel][one] = fresh / (1e-12 + np.abs(fresh).sum()) * size
    return slow_projection(x, new, eps)


SLOW = {"Linf": (slow_linf, 2), "L2": (slow_l2, 5), "L1": (slow_l1, 5)}


@all_norms
@pytest.mark.parametrize("shape", [(3, 9, 9), (1, 8, 8), (2, 7, 12), (4, 6, 3), (1, 2, 2), (2, 3, 5)])
def test_a_whole_attempt_is_that_of_slow_loops_with_the_same_draws(threat: Threat, shape) -> None:
    """Start apart: every point that is tried, which of them are kept, and the margins, over two sizes of squares."""
    model, x = Curved(shape=shape, scale=0.5), pictures(6, shape=shape)
    y = model(x).argsort(1)[:, -1]
    state = opened(x, y, threat)
    query, extra = SLOW[threat.norm]
    best, score, kept, lost = state.point.numpy().copy(), np.full(6, -np.inf), 0, 0
    for step in range(25):
        tried = best.copy()
        draws = drawn(state.keys, state.step, extra + shape[0]).double().numpy()
        side = reference_side(threat.norm, 0.8 if step < 12 else 0.4, *shape)
        for row in range(6 if step else 0):
            tried[row] = query(x[row].numpy(), best[row], draws[row], side, float(threat.eps))
        reached = margin(model(torch.tensor(tried)), y).detach().numpy()
        better = (reached > score) | (reached >= 0)
        kept, lost = kept + better[score < 0].sum(), lost + (~better).sum()
        best[better], score[better] = tried[better], reached[better]

        state = after(Square(), state, model, threat)
        torch.testing.assert_close(state.candidate, torch.tensor(tried), rtol=0, atol=1e-12)
        torch.testing.assert_close(state.point, torch.tensor(best), rtol=0, atol=1e-12)
        torch.testing.assert_close(state.margin, torch.tensor(score), rtol=0, atol=1e-11)
        assert state.found.tolist() == (reached >= 0).tolist()
    assert kept > 6
    assert lost > 6


class Slope(nn.Module):
    """The margin of class 1 over class 0 is the mean of the pixels, less a number."""

    def __init__(self, less: float) -> None:
        super().__init__()
        self.less = less

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1).mean(1) - self.less
        return torch.stack([torch.zeros_like(value), value], 1)


def test_points_that_fool_are_taken_even_where_the_margin_falls() -> None:
    x, y = torch.full((64, 1, 6, 6), 0.5, dtype=torch.float64), torch.zeros(64, dtype=torch.int64)
    falls = 0
    for less in (0.3, 0.5):
        state = after(Square(), opened(x, y, LINF), Slope(less), LINF)
        for _ in range(10):
            before, state = state, after(Square(), state, Slope(less), LINF)
            reached = state.candidate.flatten(1).mean(1) - less
            taken = (reached > before.margin) | (reached >= 0)
            assert torch.equal(state.margin, torch.where(taken, margin(Slope(less)(state.candidate), y), before.margin))
            falls += int((taken & (reached < before.margin - 1e-9)).sum())
    assert falls > 50


def test_a_tie_counts_as_found() -> None:
    """A network may round its logits: the verifier decides, as where AutoAttack's margin is zero."""
    x = torch.full((5, 1, 4, 4), 0.5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(model[1].weight), nn.init.zeros_(model[1].bias)
    assert after(Square(), opened(x, torch.arange(5) % 3, LINF), model, LINF).found.all()


# Distributions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6, 7, 12, 29, 44, 101])
@pytest.mark.parametrize("order", [2, 1])
def test_the_pattern_is_that_of_autoattack(
    order: int, side: int, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape: torch.full(shape, 0.9 if turned else 0.1))
    expected = SquareAttack(None, norm=f"L{order}").eta(side)
    ours = pattern_table((2, side, 1), order)[1, int(turned), :side, :side]
    torch.testing.assert_close(ours.float(), expected, rtol=0, atol=1e-6)
    assert ours.norm(order).item() == pytest.approx(1, abs=1e-12)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(height=st.integers(1, 13), width=st.integers(1, 13))
def test_a_pattern_of_any_size_has_norm_one_and_two_signs(height: int, width: int) -> None:
    eta = pattern(height, width, 2)
    assert eta.shape == (height, width)
    assert eta.norm().item() == pytest.approx(1, abs=1e-12)
    assert (eta[: height // 2] > 0).all()
    assert (eta[height // 2 :] < 0).all()
    if height > 1:
        assert eta[: height // 2].norm().item() == pytest.approx(math.sqrt(0.5), abs=1e-12)


def _share(condition: Tensor) -> float:
    return condition.double().mean().item()


def test_the_linf_start_is_stripes_of_either_sign() -> None:
    x = torch.full((500, 3, 7, 10), 0.5, dtype=torch.float64)
    delta = opened(x, torch.zeros(500, dtype=torch.int64), LINF).point - x
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.1))
    signs = delta.sign()
    assert torch.equal(signs, signs[:, :, :1].expand_as(signs))
    assert _share(signs > 0) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(500 * 30))
    # Neither neighbouring columns nor channels share their signs: 15,000 and 10,000 pairs, three standard deviations.
    assert _share(signs[..., 1:] == signs[..., :-1]) == pytest.approx(0.5, abs=0.015)
    assert _share(signs[:, 1:] == signs[:, :-1]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("side", [5, 6, 7, 8, 9, 10, 11, 13, 15, 16, 17, 20, 25, 28, 32, 64])
@pytest.mark.parametrize("threat", [L2, L1], ids=["L2", "L1"])
def test_the_start_is_autoattack_s_but_for_signs_and_quarter_turns(threat: Threat, side: int) -> None:
    """What turns and signs leave: which pixels are covered, and the magnitudes, in order.

    In L1 the tiles are not scaled, and what the projection leaves of a tile depends on its turn.
    """
    x = torch.full((2, 2, side, side), 0.5)
    ours = (opened(x, torch.zeros(2, dtype=torch.int64), threat).point - x).abs()
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * side**2, 3))
    reference = SquareAttack(model, norm=threat.norm, n_queries=0, eps=float(threat.eps))
    reference.init_hyperparam(x)
    theirs = (reference.attack_single_run(x, torch.zeros(2, dtype=torch.int64))[1] - x).abs()
    assert threat.norm == "L1" or torch.equal(ours > 0, theirs > 0)
    torch.testing.assert_close(*(delta.flatten(1).sort().values for delta in (ours, theirs)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 10, 25), (2, 12, 18), (1, 40, 7), (2, 3, 4), (1, 1, 1)])
def test_every_tile_of_the_l2_start_is_a_pattern_of_either_sign_turned_or_not(shape) -> None:
    x = torch.full((200, *shape), 0.5, dtype=torch.float64)
    delta = opened(x, torch.zeros(200, dtype=torch.int64), L2).point - x
    assert delta.flatten(1).norm(dim=1).sub(0.5).abs().max() < 1e-12
    sides = [max(length // 5, 1) for length in shape[1:]]
    first = [max((length - 5 * side) // 2, 0) for length, side in zip(shape[1:], sides, strict=True)]
    upright, lying = pattern(*sides, 2), pattern(*reversed(sides), 2).T
    starts = [range(begin, length, side) for begin, length, side in zip(first, shape[1:], sides, strict=True)]
    scale = None
    turns, signs, seen = [], [], torch.zeros(shape[1:], dtype=torch.bool)
    for top in list(starts[0])[: shape[1] // sides[0]]:
        for left in list(starts[1])[: shape[2] // sides[1]]:
            tile = delta[:, :, top : top + sides[0], left : left + sides[1]]
            seen[top : top + sides[0], left : left + sides[1]] = True
            scale = tile[:, 0].flatten(1).norm(dim=1) if scale is None else scale  # the first tile is whole
            ways = torch.stack([upright, lying, -upright, -lying])[:, : tile.shape[2], : tile.shape[3]]
            fits = (tile[:, :, None] / scale[:, None, None, None, None] - ways).abs().amax((3, 4)) < 1e-9  # (L, C, 4)
            assert fits.any(2).all()
            assert (fits[:, :, ::2].any(2).all(1) | fits[:, :, 1::2].any(2).all(1)).all()  # all channels turned alike
            turns.append(fits[:, 0, 1::2].any(1) & ~fits[:, 0, ::2].any(1))
            signs.append(fits[:, :, :2].any(2))
    assert torch.equal(seen, (delta[0, 0] != 0))
    pairs = 200 * len(turns)
    assert _share(torch.stack(signs)) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(pairs * shape[0]))
    if max(sides) > 1:
        assert _share(torch.stack(turns)) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(pairs))


@all_norms
def test_squares_lie_everywhere_but_at_the_last_place(threat: Threat) -> None:
    """floor(u (length - side)): the places 0 .. length - side - 1 equally often, in the two directions independently."""
    count, side, places = 6000, 3, 5  # after 201 queries a square has a tenth of the 64 pixels
    x = torch.full((count, 1, 8, 8), 0.5)
    state = replace(opened(x, torch.zeros(count, dtype=torch.int64), threat), point=x, step=torch.full((count,), 300))
    delta = (after(Square(), state, Curved(shape=(1, 8, 8)), threat).candidate - x)[:, 0]
    top, left = (delta != 0).any(2).int().argmax(1), (delta != 0).any(1).int().argmax(1)
    assert (delta != 0).sum((1, 2)).eq(side**2).all()
    together = torch.bincount(top * 8 + left, minlength=64).view(8, 8)
    assert together[:places, :places].sum() == count
    expected = count / places**2
    chi_squared = ((together[:places, :places] - expected) ** 2 / expected).sum().item()
    assert chi_squared == pytest.approx(places**2 - 1, abs=4 * math.sqrt(2 * (places**2 - 1)))
    positive = delta.flatten(1).amax(1) > 0 if threat.norm == "Linf" else delta[range(count), top, left] > 0
    assert _share(positive) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(count))


@pytest.mark.parametrize("shape", [(3, 9, 9), (2, 7, 12)])
def test_l2_queries_have_the_radius_s_norm_where_the_box_does_not_bind(shape) -> None:
    x = pictures(30, 0.4, 0.6, shape)
    threat, model = Threat("L2", "0.3"), Curved(shape=shape)
    state = opened(x, torch.zeros(30, dtype=torch.int64), threat)
    for step in (0, 0, 11, 11, 51, 201, 501, 9000):
        state = after(Square(), replace(state, step=state.step.clamp_min(step)), model, threat)
        assert 0 < state.candidate.min() <= state.candidate.max() < 1
        torch.testing.assert_close(
            threat.size(state.candidate - x), torch.full((30,), 0.3, dtype=torch.float64), rtol=0, atol=1e-9
        )


# As strong as the original ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A network trained on noisy digits, and 320 others that it gets right."""
    model, x, y = noisy_digits()
    right = model(x).argmax(1) == y
    return model, x[right][:320], y[right][:320]


@pytest.mark.parametrize(
    "threat", [Threat("Linf", "0.15"), Threat("L2", "0.7"), Threat("L1", "3")], ids=["Linf", "L2", "L1"]
)
def test_as_many_digits_are_fooled_as_by_autoattack_s_square(digits, threat: Threat) -> None:
    """Means of five runs of 150 queries. A run's accuracy deviates by about 1%, so the difference of two means by 0.6%."""
    model, x, y = digits
    ours, theirs = [], []
    for seed in range(5):
        adversarial = Square(queries=150)(model, x, y, threat, generator=streams(320, seed))
        ours.append(_share(model(adversarial).argmax(1) == y))
        reference = SquareAttack(
            model, norm=threat.norm, n_queries=150, eps=float(threat.eps), seed=seed, resc_schedule=False
        )
        theirs.append(_share(model(reference.perturb(x, y)).argmax(1) == y))
    assert 0.3 < np.mean(theirs) < 0.8
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.025)
    assert max(np.std(ours), np.std(theirs)) < 0.02


# What every search must keep -------------------------------------------------------------------------------------------


@all_norms
def test_an_adversarial_image_depends_on_its_own_index_and_not_on_its_batch(threat: Threat) -> None:
    shape = (2, 6, 9)
    model, x, search = Curved(shape=shape), pictures(40, shape=shape), Square(queries=25, restarts=2)
    assert_batches_do_not_matter(search, model, x, threat, atol=1e-11)


@all_norms
def test_rows_at_different_steps_do_not_meet(threat: Threat) -> None:
    model, x = Curved(shape=(3, 8, 8)), pictures(7, shape=(3, 8, 8))
    state = replace(opened(x, torch.arange(7) % 4, threat), step=torch.tensor([0, 1, 11, 12, 60, 999, 4800]))
    assert_rows_do_not_meet(Square(), state, model, threat)


@pytest.fixture
def no_tables_are_made(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Numbers of the host's become a tensor nowhere: on a GPU they would have to be copied."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tensor is made of the host's numbers")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "tensor", refuse)
        yield


@all_norms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_turn_reads_no_tensor_and_changes_none(threat: Threat, dtype: torch.dtype, request) -> None:
    model, x = Curved(shape=(3, 7, 8)).requires_grad_(False), pictures(5, shape=(3, 7, 8)).to(dtype)
    state = replace(opened(x, torch.arange(5) % 4, threat), step=torch.tensor([0, 1, 12, 60, 4000]))
    request.getfixturevalue("no_tables_are_made")  # those of `open` must do
    counted = assert_a_step_is_quiet(Square(), state, model, threat)
    assert (counted.forwards, counted.backwards) == (5, 0)


class Obstinate(nn.Module):
    """Says 0 to everything, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x)
        return torch.tensor([1.0, 0.0]).expand(len(x), 2)


def test_the_start_and_every_query_cost_one_forward_and_restarts_begin_elsewhere() -> None:
    search, model = Square(queries=10, restarts=3), Obstinate()
    assert (search.max_steps, search.attempts(10)) == (11, 3)
    x = torch.full((4, 1, 8, 8), 0.5)
    search(model, x, torch.zeros(4, dtype=torch.int64), LINF, generator=streams(4))
    assert (
        len(torch.cat(model.asked)) == 4 + 3 * 4 * 11 + 3 * 4
    )  # to begin with, in the steps, and what is verified in the end
    first, _, third = (model.asked[1 + 12 * attempt] for attempt in range(3))
    for start in (first, third):
        torch.testing.assert_close((start - 0.5).abs(), torch.full_like(x, 0.1))
    assert not torch.equal(first, third)


def test_it_says_what_a_record_must_state() -> None:
    expected = {"queries": 5000, "p": "0.8", "start": "stripes", "restarts": 1, "objective": "margin"}
    assert Square().describe(LINF) == expected
    changed = {"queries": 9, "p": "0.3", "start": "tiles", "restarts": 2}
    assert Square(queries=9, p=0.3, restarts=2).describe(L2) == expected | changed


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadInput, match="at least 1 query, not 0"):
        Square(queries=0)
    for p in (0, -0.1, 1.1):
        with pytest.raises(BadInput, match=f"must lie in \\(0, 1], not {p}"):
            Square(p=p)
    with pytest.raises(BadInput, match="at least 1 restart, not 0"):
        Square(restarts=0)
