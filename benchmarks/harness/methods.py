"""The table of methods: how each is made at its published size, the least that its step can cost, and its recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

from sparring.attacks import PGD
from sparring.methods import (
    AWP,
    BP,
    CAT,
    CKPT,
    DART,
    EP,
    FAT,
    GAIRAT,
    GAT,
    LAS,
    LBGAT,
    MART,
    MEP,
    NFGSM,
    SAT,
    SDI,
    TRADES,
    AdversarialTraining,
    Free,
    GradAlign,
    Method,
    NuAT,
    Standard,
    Task,
)
from sparring.threat import Ratio

FGSM_AT = PGD(steps=1, alpha=Ratio("8/255"), start="zero", bn="train")
FGSM_RS = PGD(steps=1, alpha=Ratio("10/255"), bn="train")
PGD_10 = PGD(steps=10, alpha=Ratio("2/255"), bn="train")
PGD_10_EVAL = PGD(steps=10, alpha=Ratio("2/255"), bn="eval")


class Mastered(CAT):
    """CAT at its last level."""

    @override
    def setup(self, task: Task) -> None:
        super().setup(task)
        self.level = self.steps


@dataclass(frozen=True)
class Entry:
    """A method of the table.

    Args:
        make: a new one, as published for CIFAR-10 and eps = 8/255.
        minimum: forward passes of a step that its mathematics needs; where a generator or a policy learns in every
            so-many-th step, on average.
        recipes: what is trained with it, with its variants, on any data set.
    """

    make: Callable[[], Method]
    minimum: float
    recipes: tuple[str, ...] = ()


METHODS = {
    "standard": Entry(Standard, 3, ("standard",)),
    "fgsm-at": Entry(lambda: AdversarialTraining(FGSM_AT), 5, ("fgsm-at",)),
    "fgsm-rs": Entry(lambda: AdversarialTraining(FGSM_RS), 5, ("fgsm-rs", "fgsm-rs-previous")),
    "n-fgsm": Entry(NFGSM, 5, ("n-fgsm",)),
    "ckpt": Entry(CKPT, 7, ("fgsm-ckpt",)),
    "gradalign": Entry(GradAlign, 11.11, ("fgsm-ga",)),
    "free-8": Entry(lambda: Free(m=8), 8 * 3, ("free-at",)),
    "nuat": Entry(NuAT, 8, ("nuat", "nuat-wa", "nuat2")),
    "gat": Entry(GAT, 8, ("gat",)),
    "bp": Entry(BP, 7, ("fgsm-bp",)),
    "ep": Entry(EP, 7, ("fgsm-ep",)),
    "mep": Entry(MEP, 7, ("fgsm-mep",)),
    "awp(mep)": Entry(lambda: AWP(MEP()), 8 + 6),
    "sdi": Entry(SDI, 7.145 + 4.4 / 20, ("fgsm-sdi",)),
    "pgd-10": Entry(lambda: AdversarialTraining(PGD_10), 2 * 10 + 3, ("pgd2-at", "pgd4-at", "madry-at", "pgd-at")),
    "awp(pgd-10)": Entry(lambda: AWP(AdversarialTraining(PGD_10)), 2 * 10 + 3 + 3, ("awp",)),
    "trades-10": Entry(TRADES, 2 * 10 + 7, ("trades",)),
    "awp(trades-10)": Entry(lambda: AWP(TRADES(), gamma=0.005), 2 * 10 + 7 + 6, ("trades-awp",)),
    "mart-10": Entry(MART, 2 * 10 + 6, ("mart", "mart-awp")),
    "fat-10": Entry(lambda: FAT(AdversarialTraining(PGD_10_EVAL)), 2 * 10 + 3, ("fat", "fat-trades", "fat-mart")),
    "gairat-10": Entry(GAIRAT, 2 * 10 + 3, ("gairat",)),
    "lbgat": Entry(lambda: LBGAT(teacher="resnet18"), 1 + 20 + 1 + 3 + 3, ("lbgat",)),
    "sat-10": Entry(lambda: SAT(AdversarialTraining(PGD_10_EVAL)), 2 * 10 + 3, ("sat",)),
    "cat-7": Entry(Mastered, 7 + 3, ("cat",)),
    "dart-10": Entry(lambda: DART(AdversarialTraining(PGD_10_EVAL)), 2 * 10 + 3, ("dart",)),
    "las": Entry(
        lambda: LAS(AdversarialTraining(PGD(steps=14, bn="eval"))),
        2 * 14 + 4 + 57 / 40,
        ("las-at", "las-madry-at", "las-trades", "las-awp"),
    ),
}
RECIPES = tuple(recipe for entry in METHODS.values() for recipe in entry.recipes)
