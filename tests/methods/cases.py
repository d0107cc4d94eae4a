"""The table of the contract suite: every method and composition, how many forward passes a step of it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparring.attacks import PGD
from sparring.methods import AWP, BP, EP, MEP, TRADES, AdversarialTraining, Method, Standard


@dataclass(frozen=True)
class Case:
    """A method as the suite makes it, fresh every time."""

    make: Callable[[], Method]
    units: float  # forward passes a step, a backward to the pixels counting 1 and a full one 2
    remembers: bool = False  # whether a step depends on what earlier steps left behind


def _fgsm_rs() -> Method:
    return AdversarialTraining(PGD(steps=1, alpha=0.125, bn="train"))


def _pgd(steps: int = 3) -> Method:
    return AdversarialTraining(PGD(steps=steps, alpha=0.05, bn="train"))


def _trades(steps: int = 3) -> Method:
    return TRADES(beta=6.0, attack=PGD(steps=steps, alpha=0.05, start="normal"))


def _released_mep() -> Method:
    return MEP(
        weight=10.0,
        regulariser="mean",
        smoothing=0.4,
        initial="rademacher",
        reset=2,
        box="final",
        decay=0.3,
        momentum="gradient",
        aligned=False,
    )


CASES = {
    "Standard": Case(Standard, 3),
    "FGSM-AT": Case(lambda: AdversarialTraining(PGD(steps=1, alpha=0.1, start="zero", bn="train")), 5),
    "FGSM-RS": Case(_fgsm_rs, 5),
    "PGD-3": Case(_pgd, 9),
    "PGD-3, eval, Bernoulli": Case(
        lambda: AdversarialTraining(PGD(steps=3, alpha=0.05, start="bernoulli", bn="eval"), smoothing=0.1), 9
    ),
    "PGD-3, margin, frozen statistics": Case(
        lambda: AdversarialTraining(PGD(steps=3, alpha=0.05, bn="train_frozen_stats", objective="margin")), 9
    ),
    "TRADES-3": Case(_trades, 13),
    "AWP(PGD-3)": Case(lambda: AWP(_pgd()), 12),
    "AWP(TRADES-3)": Case(lambda: AWP(_trades(), gamma=0.005), 19),
    "AWP, warming up": Case(lambda: AWP(_fgsm_rs(), warmup=1), 5),
    "BP": Case(BP, 8, remembers=True),
    "EP": Case(EP, 8, remembers=True),
    "EP, crop coordinates, no box": Case(lambda: EP(aligned=False, box="none"), 8, remembers=True),
    "MEP": Case(MEP, 8, remembers=True),
    "MEP as released": Case(_released_mep, 8, remembers=True),
    "MEP, detached start": Case(lambda: MEP(detach_start=True), 6, remembers=True),
    "MEP, no regulariser": Case(lambda: MEP(weight=0.0, bn="train"), 5, remembers=True),
    "AWP(MEP)": Case(lambda: AWP(MEP()), 14, remembers=True),
    "AWP(BP)": Case(lambda: AWP(BP()), 14, remembers=True),
}
