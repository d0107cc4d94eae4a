"""Norms of perturbations: what a ball looks like in Linf, L2 and L1, and all that differs from one to the next.

Knows nothing about networks. Whoever needs more of a norm than this keeps a table by its name and asks `by_norm`, which
refuses a norm that is not in it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, TypeAlias, TypeVar, overload

import torch
from torch import Tensor

from sparring.errors import BadInput
from sparring.randomness import Generator, normal, rademacher, uniform

NormName: TypeAlias = Literal["Linf", "L2", "L1"]
T = TypeVar("T")

_SMALLEST = torch.finfo(torch.float32).tiny
_TINY = 1e-12  # keeps a zero gradient zero instead of 0 / 0
_ROUNDING = 1e-6  # how far the rounding of single precision may carry an image beyond the radius
_SPARSE = 100  # in L1 a step changes one number in a hundred


@overload
def per_sample(value: Tensor, like: Tensor) -> Tensor: ...
@overload
def per_sample(value: float | Tensor, like: Tensor) -> float | Tensor: ...
def per_sample(value: float | Tensor, like: Tensor) -> float | Tensor:
    """Return a per-sample value (B,) shaped so that it multiplies images (B, C, H, W); a number stays as it is."""
    return value.view(-1, *[1] * (like.ndim - 1)) if isinstance(value, Tensor) else value


class Norm(ABC):
    """A norm of images and perturbations (B, C, H, W); radii are numbers or one for each image, (B,)."""

    limit: float  # radii from here on hold every image, however small it is
    bounds_numbers: bool  # whether the ball bounds every number of the image by itself

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """Return the norms (B,)."""

    @abstractmethod
    def dual_size(self, w: Tensor) -> Tensor:
        """Return the dual norms (...) of w (..., d): the most that <w, z> can change when z moves by a vector of norm 1."""

    @abstractmethod
    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        """Return the nearest perturbations of the ball."""

    def image(self, x: Tensor, delta: Tensor, eps: float | Tensor) -> Tensor:
        """Return images (B, C, H, W) within eps of x and in [0, 1], near x + delta: projected onto the ball, then clipped.

        A norm overrides this where the result would be far from the nearest such images, as in L1.
        """
        return (x + self.project(delta, eps)).clamp(0, 1)

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the step of unit norm that an ascent along this gradient takes."""

    def largest_rise(self, gradient: Tensor) -> Tensor:
        """Return how much (B,) a linear function with this gradient rises, at most, in a step of unit norm."""
        return (self.steepest(gradient) * gradient).flatten(1).sum(1)

    @abstractmethod
    def direction(self, like: Tensor, generator: Generator) -> Tensor:
        """Return perturbations in random directions, of any size, all of whose numbers are drawn alike."""

    @abstractmethod
    def draw(self, like: Tensor, eps: float | Tensor, generator: Generator) -> Tensor:
        """Return perturbations drawn uniformly from the ball."""

    @abstractmethod
    def to_grey(self, numbers: int) -> float:
        """Return the radius within which every image of this many numbers (C H W) can be turned into plain grey."""

    def rounding(self, numbers: int) -> float:
        """Return how far beyond the radius rounding may carry an image of this many numbers (C H W) in single precision."""
        return _ROUNDING


class _Linf(Norm):
    limit = 1.0
    bounds_numbers = True

    def size(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).amax(1)

    def dual_size(self, w: Tensor) -> Tensor:
        return w.abs().sum(-1)

    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        eps = per_sample(eps, delta)
        if isinstance(eps, Tensor):
            return torch.clamp(delta, -eps, eps)
        return delta.clamp(-eps, eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def direction(self, like: Tensor, generator: Generator) -> Tensor:
        return 2 * uniform(like, generator) - 1

    def draw(self, like: Tensor, eps: float | Tensor, generator: Generator) -> Tensor:
        return self.direction(like, generator) * per_sample(eps, like)

    def to_grey(self, numbers: int) -> float:
        return 0.5


class _L2(Norm):
    limit = math.inf
    bounds_numbers = False

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).norm(dim=1)

    def dual_size(self, w: Tensor) -> Tensor:
        return w.norm(dim=-1)

    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        size = per_sample(self.size(delta), delta)
        return delta * (per_sample(eps, delta) / size.clamp_min(_TINY)).clamp(max=1)

    def steepest(self, gradient: Tensor) -> Tensor:
        # Scaled first, as the squares of a confident network's gradients vanish in float32.
        scaled = gradient / per_sample(gradient.abs().flatten(1).amax(1), gradient).clamp_min(_SMALLEST)
        return scaled / per_sample(self.size(scaled), gradient).clamp_min(_TINY)

    def direction(self, like: Tensor, generator: Generator) -> Tensor:
        return normal(like, generator)

    def draw(self, like: Tensor, eps: float | Tensor, generator: Generator) -> Tensor:
        # A Gaussian's direction is uniform on the sphere; the d-th root spreads the radii evenly over the volume.
        direction = self.steepest(normal(like, generator))
        return direction * per_sample(eps, like) * _radii(like, _another(generator))

    def to_grey(self, numbers: int) -> float:
        return 0.5 * math.sqrt(numbers)


class _L1(Norm):
    """Projections are exact, and computed in double precision: they sort, and differences of long sums decide."""

    limit = math.inf
    bounds_numbers = False

    def size(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).sum(1)

    def dual_size(self, w: Tensor) -> Tensor:
        return w.abs().amax(-1)

    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        return _shortened(delta, torch.full_like(delta, torch.inf), eps)

    def image(self, x: Tensor, delta: Tensor, eps: float | Tensor) -> Tensor:
        """Return the images of ball and box that are nearest to x + delta (Croce and Hein, ICML 2021, section 2).

        Most of a point that is clipped after it was projected onto the ball alone would be lost.
        """
        return (x + _shortened(delta, torch.where(delta < 0, x, 1 - x), eps)).clamp(0, 1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the steepest step in which no number moves further than 1 / k, where k is a hundredth of all numbers.

        It moves the k numbers of the greatest slopes (at least 1, and all that equal the k-th) by as much each: the sparse
        step of Tramèr and Boneh (NeurIPS 2019, SLIDE), for CIFAR-10. The steepest step of all moves a single number,
        whose pixel can change by no more than 1.
        """
        slopes = gradient.abs().flatten(1)
        least = slopes.topk(-(-slopes.shape[1] // _SPARSE), dim=1).values[:, -1]
        return _equal_parts(gradient, least)

    def largest_rise(self, gradient: Tensor) -> Tensor:
        return self.dual_size(gradient.flatten(1))

    def direction(self, like: Tensor, generator: Generator) -> Tensor:
        return normal(like, generator)

    def draw(self, like: Tensor, eps: float | Tensor, generator: Generator) -> Tensor:
        # Exponential variables over their sum are uniform on the simplex.
        lengths = -torch.log1p(-uniform(like, generator))
        signs = rademacher(like, _another(generator))
        unit = signs * lengths / per_sample(self.size(lengths), like).clamp_min(_TINY)
        return unit * per_sample(eps, like) * _radii(like, _another(_another(generator)))

    def to_grey(self, numbers: int) -> float:
        return 0.5 * numbers

    def rounding(self, numbers: int) -> float:
        return max(_ROUNDING, numbers * torch.finfo(torch.float32).eps / 4)  # half a unit in the last place of 0.5 each


_NORMS: dict[str, Norm] = {"Linf": _Linf(), "L2": _L2(), "L1": _L1()}


def norm_named(name: str) -> Norm:
    """Return the norm of that name; raises BadInput for another."""
    if not isinstance(name, str) or name not in _NORMS:
        raise BadInput(f"Unknown norm {name!r}: write Linf, L2 or L1.")
    return _NORMS[name]


def by_norm(table: Mapping[NormName, T], norm: NormName, what: str) -> T:
    """Return what the table holds for the norm; raises BadInput, naming `what` is missing there, where it holds nothing."""
    if norm not in table:
        raise BadInput(f"{what} does not exist in {norm}: choose {' or '.join(table)}.")
    return table[norm]


def sparse_step(gradient: Tensor, kept: Tensor) -> Tensor:
    """Return steps of unit L1 norm along the share `kept` (B,) of the numbers with the greatest slopes, by equal parts."""
    slopes = gradient.abs().flatten(1).sort(1).values
    numbers = slopes.shape[1]
    first = ((1 - kept) * numbers).clamp(0, numbers - 1).long()
    return _equal_parts(gradient, slopes.gather(1, first[:, None])[:, 0])


def _equal_parts(gradient: Tensor, least: Tensor) -> Tensor:
    """Return steps of unit L1 norm that move all numbers with a slope of at least `least` (B,), and any slope, as far."""
    signs = gradient.sign() * (gradient.abs() >= per_sample(least, gradient))
    return signs / per_sample(signs.abs().flatten(1).sum(1).clamp_min(1), gradient)


def _shortened(delta: Tensor, room: Tensor, eps: float | Tensor) -> Tensor:
    """Return the perturbations nearest to `delta` of L1 norm eps, at most, none of whose numbers is
    longer than its `room`.

    Their lengths are min(max(|delta_i| - level, 0), room_i). The level is 0, or the one at which they add up to eps: their
    sum is piecewise linear in it, and bends where a number begins to get shorter and where nothing is left of it.
    """
    length, room = delta.abs().double().flatten(1), room.double().flatten(1)
    start = (length - room).clamp_min(0)
    bends, order = torch.cat([start, length], 1).sort(1)
    shrinking = torch.where(order < length.shape[1], 1.0, -1.0).to(bends).cumsum(1)  # numbers, from each bend on
    whole = torch.minimum(length, room).sum(1, keepdim=True)
    lost = torch.nn.functional.pad(
        (bends.diff(dim=1) * shrinking[:, :-1]).cumsum(1), (1, 0)
    )  # of the sum, at each bend
    radius = torch.as_tensor(per_sample(eps, length), dtype=length.dtype, device=length.device)
    excess = (whole - radius).clamp_min(0)
    last = ((lost <= excess).sum(1, keepdim=True) - 1).clamp_min(0)  # the bend before the level
    level = bends.gather(1, last) + (excess - lost.gather(1, last)) / shrinking.gather(1, last).clamp_min(1)
    level = torch.where(excess > 0, level, 0.0)
    short = torch.minimum((length - level).clamp_min(0), room)
    inside = radius * (1 - 2 * torch.finfo(delta.dtype).eps)  # so that rounding leads nowhere but inside
    short = short * (inside / short.sum(1, keepdim=True).clamp_min(_SMALLEST)).clamp_max(1)
    return (delta.sign() * short.view_as(delta)).to(delta.dtype)


def _radii(like: Tensor, generator: Generator) -> Tensor:
    """Return sizes (B, 1, 1, 1), relative to the radius, that fill a ball of that dimension evenly:
    a root of uniform numbers.
    """
    volume = uniform(like.flatten(1)[:, :1], generator)
    return per_sample(volume[:, 0] ** (1 / math.prod(like.shape[1:])), like)


def _another(generator: Generator) -> Generator:
    """Yield the stream for a second draw; a sequential generator moves on by itself."""
    if isinstance(generator, torch.Generator) or generator is None:
        return generator
    return generator.at(generator.stage + (1 << 33))
