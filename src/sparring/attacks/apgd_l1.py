"""APGD's ascent in L1: sparse steps whose number of pixels adapts to the best point's, perhaps in shrinking balls.

Knows nothing about networks: a step is given the logits, losses and gradients at the points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from sparring.attacks.search import TargetedState
from sparring.norms import sparse_step
from sparring.threat import Threat, per_sample

_FIRST_SHARE = 0.2  # of the numbers, that a step changes until the first checkpoint
_THINNING = 1.5  # a step changes so many times fewer numbers than the best point has changed
_SPARSER = 0.95  # of the changed numbers before, or fewer: then the best point has become sparser
_SHRINKING = 1.5  # of the step size, where it has not
_LEAST = 0.1  # of the first step size
_WINDOW = 0.04  # of the moves, between checkpoints
_NOTHING = 1e-6  # a number that differs by less has not changed
_SHRINKING_RADII = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # of the radius, and the share of the moves


@dataclass(frozen=True)
class SparseState(TargetedState):
    """The state of ascents in L1."""

    best: Tensor  # (L, C, H, W), the point of the greatest loss so far in this ball
    best_gradient: Tensor  # (L, C, H, W), there
    best_loss: Tensor  # (L,)
    eta: Tensor  # (L,), step size
    kept: Tensor  # (L,), the share of numbers that a step changes
    changed: Tensor  # (L,), how many numbers the best point had changed at the last checkpoint


@dataclass(frozen=True)
class Stages:
    """The balls of an ascent, one after the other: how large each is, and how many moves are made in it.

    A step evaluates a point and moves on; the last one in a ball moves to the best point's nearest image in the next ball.
    The pool verifies the last ball's last point.
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
    def steps(self) -> int:
        """The steps of all balls together."""
        return sum(self.moves) + len(self.moves) - 1


@dataclass(frozen=True)
class _Schedule:
    """What is special about each step, (steps,)."""

    factor: Tensor  # of the radius, in which the point lies
    next_factor: Tensor  # of the radius, in which the next point lies
    first: Tensor  # bool, whether it evaluates the start of a ball
    last: Tensor  # bool, whether it evaluates the last point of a ball that another one follows
    check: Tensor  # bool, whether step size and sparsity are reconsidered
    final: Tensor  # bool, whether the ball is the threat's own


def initial(shared: dict[str, Tensor], target: Tensor, threat: Threat, stages: Stages) -> SparseState:
    """Return the state before the first step, from the fields that all searches share, and targets (L,)."""
    x, start = shared["x"], shared["point"]
    nothing = x.new_zeros(len(x))
    many = _changed(start, x) if len(stages.moves) > 1 else nothing + x[0].numel()
    return SparseState(
        **shared,
        target=target,
        best=start,
        best_gradient=torch.zeros_like(x),
        best_loss=nothing - torch.inf,
        eta=nothing + stages.factors[0] * threat.eps,
        kept=_thinned(many, x) if len(stages.moves) > 1 else nothing + _FIRST_SHARE,
        changed=many,
    )


def step(
    state: SparseState, gradient: Tensor, logits: Tensor, loss: Tensor, threat: Threat, stages: Stages
) -> SparseState:
    """Return the state a step later; gradient (L, C, H, W), logits (L, K) and loss (L,) are those at the points."""
    now = _at(state, stages)
    state = replace(state, found=(logits.argmax(1) != state.y) & now.final, candidate=state.point)
    state = _improved(state, loss, gradient, now.first)
    state, origin, gradient = _reconsidered(state, gradient, now, threat)
    move = per_sample(state.eta, origin) * sparse_step(gradient, state.kept)
    ahead = torch.where(per_sample(now.last, origin), state.best, origin + move)
    point = threat.image(state.x, ahead - state.x, now.next_factor * threat.eps)
    many = _changed(point, state.x)  # what counts where the next step begins a ball
    return replace(
        state,
        point=point,
        eta=torch.where(now.last, now.next_factor * threat.eps, state.eta),
        kept=torch.where(now.last, _thinned(many, state.x), state.kept),
        changed=torch.where(now.last, many, state.changed),
    )


def _improved(state: SparseState, loss: Tensor, gradient: Tensor, first: Tensor) -> SparseState:
    """Return the state with the point's loss (L,) in it; the first point of a ball is its best."""
    better = first | (loss > state.best_loss)
    images = per_sample(better, state.x)
    return replace(
        state,
        best=torch.where(images, state.point, state.best),
        best_gradient=torch.where(images, gradient, state.best_gradient),
        best_loss=torch.where(better, loss, state.best_loss),
    )


def _reconsidered(
    state: SparseState, gradient: Tensor, now: _Schedule, threat: Threat
) -> tuple[SparseState, Tensor, Tensor]:
    """Return the state, the points to step from and the gradients there.

    At a checkpoint: full steps from the best point where it has become sparser; smaller ones from here where not.
    """
    many = _changed(state.best, state.x)
    sparser = many / state.changed < _SPARSER
    full = now.factor * threat.eps
    smaller = torch.maximum(state.eta / _SHRINKING, full * _LEAST)
    back = per_sample(now.check & sparser, state.x)
    checked = replace(
        state,
        eta=torch.where(now.check, torch.where(sparser, full, smaller), state.eta),
        kept=torch.where(now.check, _thinned(many, state.x), state.kept),
        changed=torch.where(now.check, many, state.changed),
    )
    return checked, torch.where(back, state.best, state.point), torch.where(back, state.best_gradient, gradient)


def _changed(point: Tensor, x: Tensor) -> Tensor:
    """Return how many numbers of the images differ by more than rounding, (L,)."""
    return ((point - x).abs() > _NOTHING).flatten(1).sum(1).to(x.dtype)


def _thinned(changed: Tensor, x: Tensor) -> Tensor:
    """Return the share of numbers that a step from such points changes, (L,)."""
    return changed / x[0].numel() / _THINNING


def _at(state: SparseState, stages: Stages) -> _Schedule:
    """Return the schedule at the attempts' steps, each (L,)."""
    table = _schedule(stages, state.step.device, state.x.dtype)
    step = state.step.clamp_max(stages.steps - 1)
    return _Schedule(**{name: value[step] for name, value in vars(table).items()})


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
