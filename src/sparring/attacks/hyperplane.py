"""The shortest way from points to a hyperplane inside the pixel box, exactly and without asking the host anything.

Knows nothing about networks.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Norm: TypeAlias = Literal["Linf", "L2"]

_FLAT = {"Linf": 0.0, "L2": 1e-8}  # components of w up to here do not move, as in the authors' code


def way_to_hyperplane(x: Tensor, w: Tensor, excess: Tensor, norm: Norm) -> Tensor:
    """The smallest moves (N, d) from points x (N, d) in [0, 1]^d to their hyperplanes {z: <w, z> = b} inside the box.

    The projection of Croce and Hein (ICML 2020, eq. 4), less x itself. Where the plane misses the box, the moves lead to
    the corner nearest to it.

    Args:
        x: points, in pixel fractions.
        w: (N, d), normals of the planes, of any length.
        excess: (N,), <w, x> - b: who linearises a function knows its value, which is more precise than b.
        norm: in which the moves are smallest.
    """
    steepness = w.abs()
    lowering = (w > 0) == (excess >= 0)[:, None]  # whether the component has to become smaller
    room = torch.where(lowering, x, 1 - x) * (steepness > _FLAT[norm])
    if norm == "Linf":  # all move as far as each other
        lengths = torch.minimum(_level(steepness, room, excess.abs()), room)
    else:  # in proportion to w
        speed = steepness.clamp_min(_FLAT[norm])
        lengths = torch.minimum(_level(speed * speed, room / speed, excess.abs()) * speed, room)
    return torch.where(lowering, -lengths, lengths)


def dual_size(w: Tensor, norm: Norm) -> Tensor:
    """The dual norm (...) of w (..., d): how much <w, z> changes, at most, when z moves by 1 in `norm`."""
    return w.abs().sum(-1) if norm == "Linf" else w.norm(dim=-1)


def _level(weights: Tensor, limits: Tensor, total: Tensor) -> Tensor:
    """The level (N, 1) with sum_i weights_i min(level, limits_i) = total, infinite where no level is enough.

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
