"""What the accuracies of an evaluation say about each other: an attack that can do more must not find less."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

from sparring.errors import BadInput
from sparring.evaluation.doctor.finding import Finding, worst_first
from sparring.norms import NormName

_DEVIATIONS = 2.0
_FAR = 0.1  # AutoAttack and margins find up to 5 points more than PGD where nothing is masked
_SQUARE = 0.002  # what Square may find after the other attacks of AutoAttack
_WEAK_IN_L1 = ("fgsm", "pgd-", "cw-", "gama-")  # their steps move a hundredth of the numbers, whatever is best
_WHITE_BOX = ("fgsm", "pgd-", "cw-", "gama-", "apgd-", "fab", "mt")
_MARGINS = ("cw-", "gama-", "apgd-dlr", "apgd-t", "fab", "mt")
REMEDY = "Attack through what masks the gradients (BPDA, EOT) and by transfer, and report the lowest accuracy."

Figures = Mapping[str, float]


def suspicions(accuracies: Figures, n: int, norm: NormName | None = None) -> list[Finding]:
    """Return signs of gradient masking in the accuracies of one network under several attacks, worst first.

    Differences that n images may produce by chance are none. The error of a difference is taken to be
    sqrt((a (1 - a) + b (1 - b)) / n), that of attacks whose successes have nothing to do with each other: on the same
    images they have, so the error is smaller than that (McNemar, Psychometrika 1947).

    Args:
        accuracies: fractions by the attack's name, such as clean, fgsm, pgd-20, square, aa; and by the names of an attack
            and of one of its searches, such as `aa square`, what was left after that search, in the order of searches.
        n: the number of images.
        norm: of the threat. In L1 nothing is expected of FGSM, PGD and their kind, which are weak there.

    Raises:
        BadInput: no images, or an accuracy that is not in [0, 1].
    """
    if n < 1:
        raise BadInput(f"The accuracies are of {n} images: give the number that they were measured on.")
    for name, accuracy in accuracies.items():
        if not 0 <= accuracy <= 1:
            raise BadInput(f"The accuracy under {name} is {accuracy}: give a fraction in [0, 1].")
    if norm == "L1":
        accuracies = {name: value for name, value in accuracies.items() if not name.startswith(_WEAK_IN_L1)}
    signs = (_one_step, _black_box, _margin, _autoattack)
    return worst_first(
        [*_square_comes_last(accuracies, n), *(found for sign in signs for found in sign(accuracies, n))]
    )


def _one_step(accuracies: Figures, n: int) -> Iterator[Finding]:
    fgsm, pgd = _lowest(accuracies, ("fgsm",)), _lowest(accuracies, ("pgd-",))
    if fgsm and pgd and _lower(accuracies, fgsm, pgd, n):
        yield Finding(
            "one-step-beats-many",
            "warning",
            _compared(accuracies, fgsm, pgd),
            "PGD could take the step of FGSM and more; that it finds less shows gradients that mislead it.",
            REMEDY,
        )


def _black_box(accuracies: Figures, n: int) -> Iterator[Finding]:
    square, white = _lowest(accuracies, ("square",)), _lowest(accuracies, _WHITE_BOX)
    if square and white and _lower(accuracies, square, white, n):
        yield Finding(
            "black-box-beats-white-box",
            "error",
            _compared(accuracies, square, white),
            "Square knows the logits and no gradients; that it finds more shows gradients that are of no use.",
            REMEDY,
        )


def _margin(accuracies: Figures, n: int) -> Iterator[Finding]:
    margins, entropy = _lowest(accuracies, _MARGINS), _lowest(accuracies, ("pgd-", "apgd-ce"))
    if margins and entropy and _lower(accuracies, margins, entropy, n, by=_FAR):
        yield Finding(
            "margin-beats-cross-entropy",
            "warning",
            _compared(accuracies, margins, entropy),
            "Cross-entropy is masked, as that of networks whose training weighted samples or scaled logits.",
            "Never report PGD on cross-entropy alone for this network; add C&W or AutoAttack.",
        )


def _autoattack(accuracies: Figures, n: int) -> Iterator[Finding]:
    strongest, pgd = _lowest(accuracies, ("aa",)), _lowest(accuracies, ("pgd-",))
    if strongest and pgd and _lower(accuracies, strongest, pgd, n, by=_FAR):
        yield Finding(
            "aa-far-below-pgd",
            "warning",
            _compared(accuracies, strongest, pgd),
            "On networks without masked gradients PGD comes within a few points of AutoAttack.",
            "Look which search of AutoAttack found the difference, and report AutoAttack's accuracy.",
        )


def _square_comes_last(accuracies: Figures, n: int) -> Iterator[Finding]:
    """Apply AutoAttack's own rule: more than 0.2 points, here also more images than chance explains at that rate."""
    for before, after in pairwise(accuracies):
        attack, _, search = after.partition(" ")
        if search != "square" or before.partition(" ")[0] != attack:
            continue
        found = round((accuracies[before] - accuracies[after]) * n)
        if found > _SQUARE * n + _DEVIATIONS * math.sqrt(_SQUARE * n):
            yield Finding(
                "square-finds-more",
                "error",
                f"{_compared(accuracies, after, before)} In {attack}, Square alone fooled {found} images.",
                "The attacks before it follow gradients and should have left nothing to a random search.",
                f"{REMEDY} AutoAttack's accuracy is an upper bound that a better attack may undercut.",
            )


def _lowest(accuracies: Figures, beginnings: tuple[str, ...]) -> str | None:
    """Return the attack with one of these names that left the fewest images correct; searches of attacks do not count."""
    names = [name for name in accuracies if name.startswith(beginnings) and " " not in name]
    return min(names, key=lambda name: accuracies[name]) if names else None


def _lower(accuracies: Figures, one: str, other: str, n: int, by: float = 0.0) -> bool:
    a, b = accuracies[one], accuracies[other]
    return b - a > max(by, _DEVIATIONS * math.sqrt((a * (1 - a) + b * (1 - b)) / n))


def _compared(accuracies: Figures, one: str, other: str) -> str:
    return f"{one} leaves {100 * accuracies[one]:.2f}% correct, {other} {100 * accuracies[other]:.2f}%."
