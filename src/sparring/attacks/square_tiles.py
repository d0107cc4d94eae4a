"""What Square needs in L2 and L1 balls: its pattern, the tiles that it starts from, and how a query moves the norm around.

A pattern is a pair of pyramids of opposite sign side by side, of norm 1 (Andriushchenko et al., ECCV 2020, section 3.4; for
L1, which the paper does not treat, as in AutoAttack's code). The norm is given by its order, 2 or 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.randomness import SampleStreams, uniform
from sparring.threat import per_sample

_TILES = 5  # the start is a grid of about five by five patterns
_TINY = 1e-12  # keeps nothing nothing instead of 0 / 0


def pattern(height: int, width: int, order: int) -> Tensor:
    """Return the pattern eta (height, width), in float64 on the CPU: a pyramid above and one of the opposite sign below.

    With a single row there is no upper one.
    """
    halves = [_pyramid(height // 2, width, order), -_pyramid(height - height // 2, width, order)]
    both = torch.cat(halves)
    return both / both.norm(order)


def _pyramid(height: int, width: int, order: int) -> Tensor:
    """Return squares about the centre, the k-th of 2 k - 1 pixels a side, added up; of norm 1.

    The height of the k-th is 1 / k^2 in L2, 1 / k^4 in L1.
    """
    rows, columns = (torch.arange(length) - length // 2 for length in (height, width))
    distance = torch.maximum(rows.abs()[:, None], columns.abs())  # a pixel lies in all squares but that many
    squares = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** (4 // order)
    outside_in = squares.flip(0).cumsum(0).flip(0)
    return outside_in[distance] / outside_in[distance].norm(order)


def pattern_table(sides: tuple[int, ...], order: int) -> Tensor:
    """Return the square patterns of these sides, as they are and transposed: (S, 2, M, M), padded
    with zeros to the largest.
    """
    table = torch.zeros(len(sides), 2, max(sides), max(sides), dtype=torch.float64)
    for row, side in zip(table, sides, strict=True):
        row[0, :side, :side] = pattern(side, side, order)
        row[1, :side, :side] = pattern(side, side, order).T
    return table


def tiled(x: Tensor, streams: SampleStreams, order: int) -> Tensor:
    """Return a start's perturbations (L, C, H, W), not scaled yet: patterns side by side with
    random signs, some transposed.

    A tile has a fifth of the image's height and width, and is square where the image is. The grid is that of the released
    code, also where rounding makes it more than five tiles long; where that code fails, as at the side 12 or below 5, tiles
    are cut off at the edge, or a pixel large.
    """
    (row_tile, row, in_rows), (column_tile, column, in_columns) = (_tiling(length, x.device) for length in x.shape[2:])
    height, width = (max(length // _TILES, 1) for length in x.shape[2:])
    upright = pattern(height, width, order).to(x)[row[:, None], column]  # (H, W)
    lying = pattern(width, height, order).T.to(x)[row[:, None], column]
    grid = x.new_empty(len(x), 1 + x.shape[1], x.shape[2] // height, x.shape[3] // width)
    draws = uniform(grid, streams)[:, :, row_tile[:, None], column_tile]  # (L, 1 + C, H, W)
    turned, signs = draws[:, :1] < 0.5, torch.where(draws[:, 1:] < 0.5, -1.0, 1.0).to(x)
    return torch.where(turned, lying, upright) * signs * (in_rows[:, None] & in_columns)


def _tiling(length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each coordinate, (length,), its tile, its place within the tile, and whether a tile covers it at all."""
    side = max(length // _TILES, 1)
    position = torch.arange(length, device=device) - max((length - _TILES * side) // 2, 0)
    tile = position // side
    covered = (tile >= 0) & (tile < length // side)
    return tile.clamp(0, length // side - 1), position % side, covered


def moved(delta: Tensor, first: Tensor, second: Tensor, change: Tensor, eps: float, order: int) -> Tensor:
    """Return perturbations whose norm in two windows has moved into the first, along `change`: (L,
    C, H, W), not scaled yet.

    In L2 a channel of the first window gets the norm that it had in both, and its share of what the image had left of eps
    (algorithm 3 of the paper). In L1 it gets, as in the released code, as much again for every channel there is: what
    follows is a projection, which takes it back from all of the image. The second window is emptied.

    Args:
        delta: (L, C, H, W).
        first, second: (L, 1, H, W) bool, the windows, which may overlap.
        change: (L, C, H, W), the patterns in their first windows, with their signs; 0 elsewhere.
        eps: the radius.
        order: of the norm.
    """
    kept = torch.where(first, delta, 0.0)
    fresh = change + kept / (_size(kept, order) + _TINY)
    channels, before = delta.shape[1], _size(torch.where(first | second, delta, 0.0), order)
    whole = per_sample(delta.flatten(1).norm(order, dim=1), delta)
    size = _WINDOW[order](eps, whole, before, channels)
    return torch.where(first, fresh / (_size(fresh, order) + _TINY) * size, torch.where(second, 0.0, delta))


def _l2_window(eps: float, whole: Tensor, before: Tensor, channels: int) -> Tensor:
    return ((eps**2 - whole**2).clamp_min(0) / channels + before**2).sqrt()


def _l1_window(eps: float, whole: Tensor, before: Tensor, channels: int) -> Tensor:
    return (eps - whole).clamp_min(0) + before * channels


_WINDOW = {2: _l2_window, 1: _l1_window}  # by order: the size of a channel's first window, see `moved`


def scaled(delta: Tensor, eps: float) -> Tensor:
    """Return perturbations (L, C, H, W) of L2 norm eps."""
    return delta * (eps / (per_sample(delta.flatten(1).norm(dim=1), delta) + _TINY))


def _size(delta: Tensor, order: int) -> Tensor:
    """Return the norms (L, C, 1, 1) of the channels."""
    return delta.flatten(2).norm(order, dim=2)[:, :, None, None]
