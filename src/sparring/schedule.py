"""The learning rate over a run, as a function of the fraction done: right at any number of epochs, and without state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import pairwise

from typing_extensions import override

from sparring.choices import check_choices
from sparring.errors import BadInput
from sparring.threat import Ratio


@dataclass(frozen=True)
class Schedule(ABC):
    """Multiplies the learning rate; may also move the momentum."""

    def __post_init__(self) -> None:
        """Raise BadInput where a setting is of the wrong kind; a schedule with checks of its own calls this, too."""
        check_choices(self)

    @abstractmethod
    def factor(self, step: int, total: int) -> float:
        """Return what the learning rate is multiplied by at optimizer step `step` (from 0) of `total`."""

    def momentum(self, step: int, total: int) -> float | None:
        """Return the momentum at this step; None leaves the optimizer's own."""
        return None


@dataclass(frozen=True)
class Constant(Schedule):
    """The learning rate as it is."""

    @override
    def factor(self, step: int, total: int) -> float:
        return 1.0


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiplied by `gamma` at every milestone, given as fractions of the run: 100/110 is epoch 100 of 110.

    The fractions are compared exactly. (The released scripts of FGSM-SDI and FGSM-PGI use float milestones, which match
    an optimizer step at 110 epochs and, for example, never at 30 or 60.)
    """

    milestones: tuple[Ratio, ...] = (Ratio("100/110"), Ratio("105/110"))
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "milestones", tuple(Ratio(m) for m in self.milestones))
        for milestone in self.milestones:
            if not 0 < milestone < 1:
                raise BadInput(
                    f"The milestone {milestone} is not a fraction of the run: write 100/110 for epoch 100 of 110."
                )

    @override
    def factor(self, step: int, total: int) -> float:
        return self.gamma ** sum(step >= milestone.exact * total for milestone in self.milestones)


@dataclass(frozen=True)
class InverseTime(Schedule):
    """Another schedule divided by 1 + decay t at optimizer step t, as by the `decay` of Keras's SGD; decay is at least 0."""

    schedule: Schedule = field(default_factory=MultiStep)
    decay: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < math.inf:
            raise BadInput(f"The decay of the learning rate must be at least 0, not {self.decay}.")

    @override
    def factor(self, step: int, total: int) -> float:
        return self.schedule.factor(step, total) / (1 + self.decay * step)

    @override
    def momentum(self, step: int, total: int) -> float | None:
        return self.schedule.momentum(step, total)


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Linear between points [fraction of the run, factor], which must start at 0 and end at 1.

    Two points at one fraction are a jump; the second one holds from there on.
    """

    points: tuple[tuple[Ratio, float], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        points = tuple((Ratio(fraction), float(factor)) for fraction, factor in self.points)
        object.__setattr__(self, "points", points)
        fractions = [fraction for fraction, _ in points]
        if fractions[:1] != [Ratio(0)] or fractions[-1:] != [Ratio(1)] or any(a > b for a, b in pairwise(fractions)):
            raise BadInput(f"Piecewise points must rise from fraction 0 to 1, not {fractions}.")

    @override
    def factor(self, step: int, total: int) -> float:
        return _interpolate(step / total, [(float(fraction), factor) for fraction, factor in self.points])


@dataclass(frozen=True)
class Linear(Schedule):
    """From 1 down to 0, after a linear `warmup` over that fraction of the run."""

    warmup: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_warmup(self.warmup)

    @override
    def factor(self, step: int, total: int) -> float:
        return _warm(step / total, self.warmup) * _interpolate(step / total, [(self.warmup, 1.0), (1.0, 0.0)])


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to 0 (Loshchilov and Hutter, ICLR 2017), after a linear `warmup`."""

    warmup: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_warmup(self.warmup)

    @override
    def factor(self, step: int, total: int) -> float:
        done = max(step / total - self.warmup, 0) / (1 - self.warmup)
        return _warm(step / total, self.warmup) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class Cyclic(Schedule):
    """One triangle, 0 up to 1 at the fraction `peak` and down to 0 (Smith, 2017).

    `lowest_momentum` moves the momentum in anti-phase, from the optimizer's 0.9 down to it and back (PyTorch's CyclicLR
    default, 0.8, is what the released code of FGSM-SDI and FGSM-PGI trains with); None keeps the momentum.
    """

    peak: float = 0.5
    lowest_momentum: float | None = None
    highest_momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.peak < 1:
            raise BadInput(
                f"The peak of a cyclic schedule must lie inside the run, between 0 and 1, not at {self.peak}."
            )

    @override
    def factor(self, step: int, total: int) -> float:
        return _interpolate(step / total, [(0.0, 0.0), (self.peak, 1.0), (1.0, 0.0)])

    @override
    def momentum(self, step: int, total: int) -> float | None:
        if self.lowest_momentum is None:
            return None
        return self.highest_momentum - self.factor(step, total) * (self.highest_momentum - self.lowest_momentum)


def _check_warmup(warmup: float) -> None:
    if not 0 <= warmup < 1:
        raise BadInput(f"warmup is a fraction of the run in [0, 1), not {warmup}.")


def _warm(done: float, warmup: float) -> float:
    return min(done / warmup, 1.0) if warmup else 1.0


def _interpolate(done: float, points: list[tuple[float, float]]) -> float:
    """Return the value at `done` on the straight lines between the points; the first and last values hold outside."""
    if done < points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in pairwise(points):
        if done < right:
            return low + (high - low) * (done - left) / (right - left)
    return points[-1][1]
