"""The average of a network's weights, and how it follows them over a run: a share at every step, and no other state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.choices import check_choices
from sparring.errors import BadInput
from sparring.threat import Ratio


@dataclass(frozen=True)
class Average(ABC):
    """average <- (1 - share) average + share weights, after every optimizer step; BatchNorm's statistics likewise."""

    def __post_init__(self) -> None:
        """Raise BadInput where a setting is of the wrong kind; an average with checks of its own calls this, too."""
        check_choices(self)

    @abstractmethod
    def share(self, step: int, total: int) -> float:
        """Return what part of the new weights enters, in (0, 1], after optimizer step `step` (from 1) of `total`."""


@dataclass(frozen=True)
class EMA(Average):
    """An exponential moving average: the share is 1 - `decay`.

    With `warmup` the decay grows as (1 + t) / (10 + t) after step t until it reaches its value, so that the first steps
    are forgotten; without it, the initial weights still count decay^t.
    """

    decay: float = 0.995
    warmup: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay < 1:
            raise BadInput(
                f"The decay of EMA must lie between 0 and 1, not at {self.decay}: write, for example, 0.995."
            )

    @override
    def share(self, step: int, total: int) -> float:
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
        super().__post_init__()
        object.__setattr__(self, "start", Ratio(self.start))
        if not 0 <= self.start < 1:
            raise BadInput(
                f"The start of SWA is a fraction of the run in [0, 1), not {self.start}: write 100/110 for epoch 100 of 110."
            )

    @override
    def share(self, step: int, total: int) -> float:
        return 1 / max(1, step - math.ceil(self.start.exact * total))


class WeightAverage:
    """A copy of the network with averaged parameters and, by the same shares, BatchNorm's running statistics.

    The network's own statistics are of its own weights (docs/log.md).
    """

    def __init__(self, network: nn.Module, average: Average) -> None:
        self.network = deepcopy(network).requires_grad_(False).eval()
        self.share = average.share

    @torch.no_grad()
    def follow(self, network: nn.Module, share: float | Tensor, rest: float | Tensor) -> None:
        """Set average <- rest average + share network, with rest = 1 - share: exactly the network at a share of 1."""
        kept, current = _averageable(self.network), _averageable(network)
        torch._foreach_mul_(kept, rest)
        torch._foreach_add_(kept, torch._foreach_mul(current, share))
        for own, other in zip(self.network.buffers(), network.buffers(), strict=True):
            if not own.is_floating_point():  # the number of batches seen
                own.copy_(other)


def _averageable(network: nn.Module) -> list[Tensor]:
    """Return the parameters, and the buffers that are no counters."""
    return [tensor for tensor in (*network.parameters(), *network.buffers()) if tensor.is_floating_point()]
