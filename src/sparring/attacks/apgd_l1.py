"""APGD's ascent in L1: sparse steps whose number of pixels adapts to the best point's, perhaps in shrinking balls.

Knows nothing about networks: a turn is told what the network said at the points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from sparring.attacks.search import AimedLanes
from sparring.norms import sparse_step
from sparring.threat import Threat, spread

_FIRST_SHARE = 0.2  # of the numbers, that a step changes until the first checkpoint
_THINNING = 1.5  # a step changes so many times fewer numbers than the best point has changed
_SPARSER = 0.95  # of the changed numbers before, or fewer: then the best point has become sparser
_SHRINKING = 1.5  # of the step size, where it has not
_LEAST = 0.1  # of the first step size
_WINDOW = 0.04  # of the moves, between checkpoints
_NOTHING = 1e-6  # a number that differs by less has not changed
_SHRINKING_RADII = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # of the radius, and the share of the moves


@dataclass(frozen=True)
class SparseLanes(AimedLanes):
    """What an ascent in L1 remembers."""

    best: Tensor  # (L, C, H, W), the point of the greatest loss so far in this ball
    best_gradient: Tensor  # (L, C, H, W), there
    best_loss: Tensor  # (L,)
    eta: Tensor  # (L,), step size
    kept: Tensor  # (L,), the share of numbers that a step changes
    changed: Tensor  # (L,), how many numbers the best point had changed at the last checkpoint


@dataclass(frozen=True)
class Stages:
    """The balls of an ascent, one after the other: how large each is, and how many moves are made in it.

    A turn looks at a point and moves on; the last look in a ball leads to the best point's nearest image in the next one.
    After the last ball's last move the pool looks.
    """

    factors: tuple[float, ...]  # of the radius
    moves: tuple[int, ...]

    @classmethod
    def of(cls, steps: int, shrinking: bool) -> Stages:
        """Return the stages of an ascent of so many moves."""
        if not shrinking:
            return cls((1.0,), (steps,))
        *early, _ = (math.ceil(share * steps) for _, share in _SHRINKING_RADII)
        moves = [min(count, steps) for count in (early[0], min(early[1], steps - early[0]))]
        return cls(tuple(factor for factor, _ in _SHRINKING_RADII), (*moves, steps - sum(moves)))

    @property
    def turns(self) -> int:
        """How many turns they take in all."""
        return sum(self.moves) + len(self.moves) - 1


@dataclass(frozen=True)
class _Schedule:
    """For each turn, (turns,): what is special about it."""

    factor: Tensor  # of the radius, in which the point lies
    next_factor: Tensor  # of the radius, in which the next point lies
    first: Tensor  # bool, whether it looks at the start of a ball
    last: Tensor  # bool, whether it looks at the end of a ball that another one follows
    check: Tensor  # bool, whether step size and sparsity are reconsidered
    final: Tensor  # bool, whether the ball is the threat's own


def begun(shared: dict[str, Tensor], target: Tensor, threat: Threat, stages: Stages) -> SparseLanes:
    """Return the lanes before the first turn, from the fields that all lanes share, and targets (L,)."""
    x, start = shared["x"], shared["point"]
    nothing = x.new_zeros(len(x))
    many = _changed(start, x) if len(stages.moves) > 1 else nothing + x[0].numel()
    return SparseLanes(
        **shared,
        target=target,
        best=start,
        best_gradient=torch.zeros_like(x),
        best_loss=nothing - torch.inf,
        eta=nothing + stages.factors[0] * threat.eps,
        kept=_thinned(many, x) if len(stages.moves) > 1 else nothing + _FIRST_SHARE,
        changed=many,
    )


def advanced(
    lanes: SparseLanes, gradient: Tensor, logits: Tensor, loss: Tensor, threat: Threat, stages: Stages
) -> SparseLanes:
    """Return the lanes a turn later; gradient (L, C, H, W), logits (L, K) and loss (L,) are those at their points."""
    now = _at(lanes, stages)
    lanes = replace(lanes, found=(logits.argmax(1) != lanes.y) & now.final, candidate=lanes.point)
    lanes = _improved(lanes, loss, gradient, now.first)
    lanes, origin, gradient = _reconsidered(lanes, gradient, now, threat)
    step = spread(lanes.eta, origin) * sparse_step(gradient, lanes.kept)
    ahead = torch.where(spread(now.last, origin), lanes.best, origin + step)
    point = threat.image(lanes.x, ahead - lanes.x, now.next_factor * threat.eps)
    many = _changed(point, lanes.x)  # what counts where the next turn begins a ball
    return replace(
        lanes,
        point=point,
        eta=torch.where(now.last, now.next_factor * threat.eps, lanes.eta),
        kept=torch.where(now.last, _thinned(many, lanes.x), lanes.kept),
        changed=torch.where(now.last, many, lanes.changed),
    )


def _improved(lanes: SparseLanes, loss: Tensor, gradient: Tensor, first: Tensor) -> SparseLanes:
    """The memory with the point's loss (L,) in it; the first of a ball is its best."""
    better = first | (loss > lanes.best_loss)
    images = spread(better, lanes.x)
    return replace(
        lanes,
        best=torch.where(images, lanes.point, lanes.best),
        best_gradient=torch.where(images, gradient, lanes.best_gradient),
        best_loss=torch.where(better, loss, lanes.best_loss),
    )


def _reconsidered(
    lanes: SparseLanes, gradient: Tensor, now: _Schedule, threat: Threat
) -> tuple[SparseLanes, Tensor, Tensor]:
    """At a checkpoint: full steps from the best point where it has become sparser; smaller ones from here where not."""
    many = _changed(lanes.best, lanes.x)
    sparser = many / lanes.changed < _SPARSER
    full = now.factor * threat.eps
    smaller = torch.maximum(lanes.eta / _SHRINKING, full * _LEAST)
    back = spread(now.check & sparser, lanes.x)
    checked = replace(
        lanes,
        eta=torch.where(now.check, torch.where(sparser, full, smaller), lanes.eta),
        kept=torch.where(now.check, _thinned(many, lanes.x), lanes.kept),
        changed=torch.where(now.check, many, lanes.changed),
    )
    return checked, torch.where(back, lanes.best, lanes.point), torch.where(back, lanes.best_gradient, gradient)


def _changed(point: Tensor, x: Tensor) -> Tensor:
    """How many numbers of the images differ by more than rounding, (L,)."""
    return ((point - x).abs() > _NOTHING).flatten(1).sum(1).to(x.dtype)


def _thinned(changed: Tensor, x: Tensor) -> Tensor:
    """The share of numbers that a step from such points changes, (L,)."""
    return changed / x[0].numel() / _THINNING


def _at(lanes: SparseLanes, stages: Stages) -> _Schedule:
    """The schedule at the lanes' turns, each (L,)."""
    table = _schedule(stages, lanes.step.device, lanes.x.dtype)
    turn = lanes.step.clamp_max(stages.turns - 1)
    return _Schedule(**{name: value[turn] for name, value in vars(table).items()})


@lru_cache(maxsize=32)
def _schedule(stages: Stages, device: torch.device, dtype: torch.dtype) -> _Schedule:
    rows = []
    for stage, (factor, moves) in enumerate(zip(stages.factors, stages.moves, strict=True)):
        final = stage == len(stages.moves) - 1
        window = max(int(_WINDOW * moves), 1)
        for move in range(moves if final else moves + 1):
            last = not final and move == moves
            coming = stages.factors[stage + 1] if last else factor
            rows.append((factor, coming, move == 0, last, move > 0 and move % window == 0, final))
    columns = list(zip(*rows, strict=True))
    radii = (torch.tensor(column, device=device, dtype=dtype) for column in columns[:2])
    return _Schedule(*radii, *(torch.tensor(column, device=device) for column in columns[2:]))
