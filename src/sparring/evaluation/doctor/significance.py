"""When a difference between two ways to classify the same images is more than luck."""

from __future__ import annotations

import math

from jaxtyping import Bool, Int
from torch import Tensor

_DEVIATIONS = 3.0  # a healthy model meets a dozen of these tests: two would be too few


def outnumber(more: Bool[Tensor, " N"], fewer: Bool[Tensor, " N"], least: float) -> bool:
    """Return whether `more` holds for more images than `fewer`: beyond chance, and by at least the share `least` of them.

    Both are (N,) and about the same images, so only those that differ count (McNemar, Psychometrika 1947): of b + c
    images, b - c has a standard deviation of at most sqrt(b + c) if neither way is better.
    """
    gained, lost = int((more & ~fewer).sum()), int((fewer & ~more).sum())
    return gained - lost >= max(least * len(more), _DEVIATIONS * math.sqrt(gained + lost), 1)


def beyond_chance(predicted: Int[Tensor, " N"], y: Int[Tensor, " N"]) -> bool:
    """Return whether predictions (N,) agree with labels (N,) more often than if they had nothing to do with each other.

    Chance is sum_k n_k m_k / N for n_k predictions and m_k labels of class k (Cohen, 1960), so a constant answer is
    at chance, however frequent its class.
    """
    count, classes = len(y), int(max(predicted.max(), y.max())) + 1
    expected = float((predicted.bincount(minlength=classes) * y.bincount(minlength=classes)).sum()) / count
    return int((predicted == y).sum()) > expected + _DEVIATIONS * math.sqrt(expected * (1 - expected / count))
