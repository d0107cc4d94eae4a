"""How much an accuracy says that was measured on so many images."""

from __future__ import annotations

from math import sqrt

_SURE = 1.96  # standard deviations of a normal distribution that hold 95% of it


def interval(share: float, count: int) -> tuple[float, float]:
    """Return the ends of the 95% interval for a share in [0, 1] of so many images (Wilson's score interval, 1927)."""
    square = _SURE**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _SURE * sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return middle - half, middle + half
