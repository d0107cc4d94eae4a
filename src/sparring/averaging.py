"""How the average of a network's weights follows them over a run: a share at every step, and no state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from sparring.errors import BadInput
from sparring.threat import Ratio


@dataclass(frozen=True)
class Average(ABC):
    """average <- (1 - share) average + share weights, after every optimizer step; BatchNorm's statistics likewise."""

    @abstractmethod
    def share(self, step: int, total: int) -> float:
        """What part of the new weights enters, in (0, 1], after optimizer step `step` (from 1) of `total`."""


@dataclass(frozen=True)
class EMA(Average):
    """An exponential moving average: the share is 1 - `decay`.

    With `warmup` the decay grows as (1 + t) / (10 + t) after step t until it reaches its value, so that the first steps
    are forgotten; without it, the initial weights still count decay^t.
    """

    decay: float = 0.995
    warmup: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise BadInput(
                f"The decay of EMA must lie between 0 and 1, not at {self.decay}: write, for example, 0.995."
            )

    def share(self, step: int, total: int) -> float:
        """See `Average`."""
        return 1 - (min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay)


@dataclass(frozen=True)
class SWA(Average):
    """The equal mean of the weights after every step past the fraction `start` (Izmailov et al., UAI 2018).

    The first step in the mean is ceil(start total) + 1, compared exactly: from 100/110 on, the steps that a `MultiStep`
    with this milestone makes at its lower rate. Up to it the average is the network. (The paper takes weights once an
    epoch or cycle.)
    """

    start: Ratio = Ratio("100/110")

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", Ratio(self.start))
        if not 0 <= self.start < 1:
            raise BadInput(
                f"The start of SWA is a fraction of the run in [0, 1), not {self.start}: write 100/110 for epoch 100 of 110."
            )

    def share(self, step: int, total: int) -> float:
        """See `Average`."""
        return 1 / max(1, step - math.ceil(self.start.exact * total))
