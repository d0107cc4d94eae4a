"""The shortest way from points to a hyperplane inside the pixel box, exactly and without asking the host anything.

Knows nothing about networks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.norms import NormName, by_norm


def way_to_hyperplane(x: Tensor, w: Tensor, excess: Tensor, norm: NormName) -> Tensor:
    """Return the smallest moves (N, d) inside the box from points x (N, d) in [0, 1]^d to their hyperplanes <w, z> = b.

    The projection of Croce and Hein (ICML 2020, eq. 4), less x itself. Where the plane misses the box, the moves lead to
    the corner nearest to it. In L2 and L1, components of w up to 1e-8 do not move, as in the authors' code.

    Args:
        x: points, in pixel fractions.
        w: (N, d), normals of the planes, of any length.
        excess: (N,), <w, x> - b: who linearises a function knows its value, which is more precise than b.
        norm: in which the moves are smallest.

    Raises:
        BadInput: a norm for which this is not known.
    """
    lengths = by_norm(_LENGTHS, norm, "The way to a hyperplane")
    lowering = (w > 0) == (excess >= 0)[:, None]  # whether the component has to become smaller
    moved = lengths(w.abs(), torch.where(lowering, x, 1 - x), excess.abs())
    return torch.where(lowering, -moved, moved)


def _all_alike(steepness: Tensor, room: Tensor, total: Tensor) -> Tensor:
    """Solve for Linf: all move as far as each other, or as they can."""
    room = room * (steepness > 0)
    return torch.minimum(_level(steepness, room, total), room)


def _in_proportion(steepness: Tensor, room: Tensor, total: Tensor) -> Tensor:
    """Solve for L2: all move in proportion to w, or as far as they can."""
    room, speed = room * (steepness > _FLAT), steepness.clamp_min(_FLAT)
    return torch.minimum(_level(speed * speed, room / speed, total) * speed, room)


def _one_by_one(steepness: Tensor, room: Tensor, total: Tensor) -> Tensor:
    """Solve for L1: the steepest moves as far as it can, then the next, until the plane is reached.

    In double precision: what the last one has to do is a difference of long sums.
    """
    room = room * (steepness > _FLAT)
    slopes, order = steepness.double().sort(1, descending=True)
    limits = room.double().gather(1, order)
    gained = (slopes * limits).cumsum(1)
    left = total[:, None] - torch.nn.functional.pad(gained[:, :-1], (1, 0))
    lengths = torch.minimum(left.clamp_min(0) / slopes.clamp_min(_FLAT), limits)
    return torch.zeros_like(room).scatter(1, order, lengths.to(room.dtype))


_FLAT = 1e-8
_LENGTHS: dict[NormName, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "Linf": _all_alike,
    "L2": _in_proportion,
    "L1": _one_by_one,
}


def _level(weights: Tensor, limits: Tensor, total: Tensor) -> Tensor:
    """Return the level (N, 1) with sum_i weights_i min(level, limits_i) = total, infinite where no level is enough.

    All are at least 0: weights and limits (N, d), total (N,). The sum is piecewise linear in the level, with a breakpoint
    at each limit: those below the level are looked up in sorted order, and the rest is a division.
    """
    limits, order = limits.sort(1)
    weights = weights.gather(1, order)
    filled = weights * limits
    # The sum at a breakpoint: earlier components stand at their limits, the others at this one. The others' weights are
    # added up from the far end: as a difference from all weights they would be rounding errors, times a large limit.
    others = weights.flip(1).cumsum(1).flip(1)
    reached = filled.cumsum(1) - filled + limits * others
    below = reached < total[:, None]
    rest = total - (filled * below).sum(1)
    slope = (weights * ~below).sum(1)
    level = torch.where(slope > 0, rest / slope, torch.inf)
    # A rest that is all rounding must not carry the level back behind a breakpoint that it has passed.
    return torch.maximum(level, (limits * below).amax(1))[:, None]
