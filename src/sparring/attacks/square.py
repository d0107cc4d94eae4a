"""Square: random search that needs no gradients, only the network's logits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from typing_extensions import override

from sparring.attacks.attack import SearchAttack
from sparring.attacks.search import CountedModel, SearchState, initial_fields
from sparring.attacks.square_tiles import moved, pattern_table, scaled, tiled
from sparring.errors import BadInput
from sparring.losses import margin
from sparring.norms import NormName, by_norm
from sparring.randomness import SampleStreams, drawn, rademacher
from sparring.threat import Threat, per_sample

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries; the schedule for 10,000, not rescaled


@dataclass(frozen=True)
class SquareState(SearchState):
    """The state of Square; `point` is the best image so far."""

    margin: Tensor  # (L,), max_{j != y} z_j - z_y at `point`; -inf before the first step
    keys: Tensor  # (L,) int64, which the queries are drawn from; never changes


@dataclass(frozen=True)
class Square(SearchAttack):
    """Squares of noise, kept where they raise the margin (Andriushchenko et al., ECCV 2020, algorithms 1 to 3).

    An image is fooled by the first point whose margin max_{j != y} z_j - z_y is not negative. The settings, the schedule of
    the squares' sides and the distribution of queries for one image are those of AutoAttack's "standard", its quirk
    included that a square never reaches the last place that it could lie at. Two things differ. Every image has squares of
    its own, where the released code has one for the whole batch in each query: so an image's result does not depend on the
    others. And images need not be square: the side is then that of a square of the same area, as far as it fits.

    Args:
        queries: number of queries after that of the start, at least 1.
        p: the share of the image's area that the first squares cover, in (0, 1].
        restarts: attempts at an image, at least 1.

    Raises:
        BadInput: a number out of its range.
    """

    state_type = SquareState

    queries: int = 5000
    p: float = 0.8
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 1:
            raise BadInput(f"Square needs at least 1 query, not {self.queries}.")
        if not 0 < self.p <= 1:
            raise BadInput(f"Square's p is a share of the image's area: it must lie in (0, 1], not {self.p}.")
        if self.restarts < 1:
            raise BadInput(f"An attack needs at least 1 restart, not {self.restarts}.")

    @override
    @property
    def max_steps(self) -> int:
        return self.queries + 1  # the first is of the start

    @override
    def attempts(self, classes: int) -> int:
        return self.restarts

    @override
    def init(
        self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat
    ) -> SearchState:
        self._tables(x, threat)  # copied to the device now: in a step that would make the host wait
        start = _shape(threat.norm).start(x, streams, threat)
        worst = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        return SquareState(**initial_fields(x, y, start), margin=worst, keys=streams.keys().to(x.device))

    @override
    def step(self, model: CountedModel, state: SearchState, threat: Threat) -> SearchState:
        # A query is kept where the margin grows, or where it fools the network.
        assert isinstance(state, SquareState)
        tables, shape = self._tables(state.x, threat), _shape(threat.norm)
        draws = drawn(state.keys, state.step, shape.draws(state.x.shape[1]))
        halvings = torch.bucketize(state.step - 1, tables.halved_after)
        query = shape.query(state.x, state.point, draws, halvings, tables, threat)
        tried = torch.where(per_sample(state.step == 0, query), state.point, query)
        reached = margin(model.logits(tried), state.y).to(state.margin)
        found = reached >= 0
        better = found | (reached > state.margin)
        return replace(
            state,
            point=torch.where(per_sample(better, tried), tried, state.point),
            margin=torch.where(better, reached, state.margin),
            found=found,
            candidate=tried,
        )

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:
        return {
            "queries": self.queries,
            "p": str(self.p),
            "start": _shape(threat.norm).name,
            "restarts": self.restarts,
            "objective": "margin",
        }

    def _tables(self, x: Tensor, threat: Threat) -> Tables:
        return _tables(threat.norm, self.p, x.shape[2], x.shape[3], x.device, x.dtype)


@dataclass(frozen=True)
class Tables:
    """What queries look up on the device, where S is how many times p may be halved, and once more."""

    halved_after: Tensor  # (S - 1,), the queries after which p is halved
    sides: Tensor  # (S,), of the squares, in pixels
    patterns: Tensor  # (S, 2, M, M), see `pattern_table`; empty for Linf


@dataclass(frozen=True)
class Window:
    """A square in each image, by the coordinates that pixels have in it."""

    rows: Tensor  # (L, H), from the square's upper edge: outside it less than 0 or at least its side
    columns: Tensor  # (L, W), from its left edge
    inside: Tensor  # (L, 1, H, W) bool

    @classmethod
    def drawn(cls, draws: Tensor, side: Tensor, like: Tensor) -> Window:
        """Return squares of these sides (L,) in images like these (L, C, H, W), at the places drawn (L, 2) from [0, 1)."""
        rows, columns = (_counted(draws[:, axis], side, like.shape[2 + axis]) for axis in (0, 1))
        tall, wide = ((axis >= 0) & (axis < side[:, None]) for axis in (rows, columns))
        return cls(rows, columns, tall[:, None, :, None] & wide[:, None, None, :])


def _counted(draw: Tensor, side: Tensor, length: int) -> Tensor:
    first = (draw * (length - side)).long()  # as in the original, the last admissible one is never drawn
    return torch.arange(length, device=draw.device) - first[:, None]


class _Shape(ABC):
    """How Square starts and what it tries, in one norm."""

    name: str  # of the start

    @abstractmethod
    def side(self, area: float, height: int, width: int) -> int:
        """Return the side of a square of that area, in pixels, as far as it fits into the image."""

    @abstractmethod
    def patterns(self, sides: tuple[int, ...]) -> Tensor:
        """Return `Tables.patterns` for squares of these sides."""

    @abstractmethod
    def start(self, x: Tensor, streams: SampleStreams, threat: Threat) -> Tensor:
        """Return the first images (L, C, H, W)."""

    @abstractmethod
    def draws(self, channels: int) -> int:
        """Return how many numbers a query takes."""

    @abstractmethod
    def query(
        self, x: Tensor, point: Tensor, draws: Tensor, halvings: Tensor, tables: Tables, threat: Threat
    ) -> Tensor:
        """Return the images (L, C, H, W) to be tried after `point`, when p has been halved `halvings` (L,) times."""


class _Stripes(_Shape):
    """Linf: columns, and then squares, of x +- eps, with a sign for each channel."""

    name = "stripes"

    def side(self, area: float, height: int, width: int) -> int:
        return min(max(round(math.sqrt(area)), 1), height, width)

    def patterns(self, sides: tuple[int, ...]) -> Tensor:
        return torch.empty(0)

    def start(self, x: Tensor, streams: SampleStreams, threat: Threat) -> Tensor:
        return (x + threat.eps * rademacher(x[:, :, :1], streams)).clamp(0, 1)

    def draws(self, channels: int) -> int:
        return 2 + channels

    def query(
        self, x: Tensor, point: Tensor, draws: Tensor, halvings: Tensor, tables: Tables, threat: Threat
    ) -> Tensor:
        # The paper adds +-2 eps and projects: wherever in the ball the pixel was, it ends at x +- eps.
        window = Window.drawn(draws, tables.sides[halvings], x)
        return torch.where(window.inside, (x + threat.eps * _signs(draws[:, 2:], x)).clamp(0, 1), point)


class _Tiles(_Shape):
    """L2 and L1: patterns all over, and then one more pattern in a square, which takes the norm of another square."""

    name = "tiles"

    def __init__(self, order: int, fitted: Callable[[Tensor, Tensor, Threat], Tensor]) -> None:
        """Use `fitted` to make images from the images x and perturbations (L, C, H, W) of any size."""
        self._order, self._fitted = order, fitted

    def side(self, area: float, height: int, width: int) -> int:
        return min(max(round(math.sqrt(area)), 3) | 1, height, width)  # odd, where it fits

    def patterns(self, sides: tuple[int, ...]) -> Tensor:
        return pattern_table(sides, self._order)

    def start(self, x: Tensor, streams: SampleStreams, threat: Threat) -> Tensor:
        return self._fitted(x, tiled(x, streams, self._order), threat)

    def draws(self, channels: int) -> int:
        return 5 + channels

    def query(
        self, x: Tensor, point: Tensor, draws: Tensor, halvings: Tensor, tables: Tables, threat: Threat
    ) -> Tensor:
        side = tables.sides[halvings]
        first, second = Window.drawn(draws, side, x), Window.drawn(draws[:, 2:], side, x)
        turned = (draws[:, 4] < 0.5).long()
        last = tables.patterns.shape[-1] - 1
        rows, columns = (axis.clamp(0, last) for axis in (first.rows, first.columns))
        pattern = tables.patterns[halvings[:, None, None], turned[:, None, None], rows[:, :, None], columns[:, None, :]]
        change = torch.where(first.inside, pattern[:, None] * _signs(draws[:, 5:], x), 0.0)
        delta = moved(point - x, first.inside, second.inside, change, threat.eps, self._order)
        return self._fitted(x, delta, threat)


def _scaled(x: Tensor, delta: Tensor, threat: Threat) -> Tensor:
    return (x + scaled(delta, threat.eps)).clamp(0, 1)


def _projected(x: Tensor, delta: Tensor, threat: Threat) -> Tensor:
    return threat.image(x, delta)


_SHAPES: dict[NormName, _Shape] = {"Linf": _Stripes(), "L2": _Tiles(2, _scaled), "L1": _Tiles(1, _projected)}


def _shape(norm: NormName) -> _Shape:
    return by_norm(_SHAPES, norm, "Square")


def _signs(draws: Tensor, like: Tensor) -> Tensor:
    """Return -1 or 1 for each of the draws (L, C) from [0, 1): (L, C, 1, 1)."""
    return torch.where(draws < 0.5, -1.0, 1.0).to(like)[:, :, None, None]


@lru_cache(maxsize=32)
def _tables(norm: NormName, p: float, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tables:
    shape = _shape(norm)
    sides = tuple(shape.side(p / 2**times * height * width, height, width) for times in range(len(_HALVED_AFTER) + 1))
    return Tables(
        torch.tensor(_HALVED_AFTER, device=device),
        torch.tensor(sides, device=device),
        shape.patterns(sides).to(device, dtype),
    )
