"""Methods with short attacks, for curricula to end early, and two curricula around them."""

from __future__ import annotations

from dataclasses import replace

from sparring.attacks import PGD
from sparring.methods import DART, MART, TRADES, AdversarialTraining, Method
from sparring.schedule import Piecewise

K, ALPHA = 4, 0.04  # the most steps, and their size


def at() -> AdversarialTraining:
    return AdversarialTraining(PGD(steps=K, alpha=ALPHA, bn="eval"))


def trades() -> TRADES:
    return TRADES(beta=6.0, attack=PGD(steps=K, alpha=ALPHA, start="normal", bn="eval"))


def trades_from_afar() -> TRADES:
    return replace(trades(), attack=at().attack)


def mart() -> MART:
    return MART(PGD(steps=K, alpha=ALPHA, start="normal", bn="eval"))


def dart(inner: Method) -> DART:
    if isinstance(inner, TRADES):  # whose divergence is a hundredth of a loss
        return DART(trades_from_afar(), threshold=0.05)
    return DART(inner, threshold=1.0)


def constantly(gap: float) -> Piecewise:
    return Piecewise(((0, gap), (1, gap)))
