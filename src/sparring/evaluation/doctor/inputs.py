"""Checks of pixels, labels and radius, which no network is needed for."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from sparring.evaluation.doctor.case import Case
from sparring.evaluation.doctor.finding import Finding, Severity
from sparring.norms import NormName, by_norm

_COLOURS = 3
_TO_BYTES = "Store bytes: (x * 255).round().to(torch.uint8), with x in [0, 1]."


def pixel_range(case: Case) -> Finding | None:
    """Check whether the images are bytes that use their range; `Images` holds 8-bit pixels and nothing else."""
    pixels = case.pixels
    kind = str(pixels.dtype).removeprefix("torch.")
    low, high = float(pixels.min()), float(pixels.max())
    seen = f"The pixels are {kind} from {low:.4g} to {high:.4g}, with mean {_mean(pixels):.3g}"
    if not pixels.is_floating_point() and low >= 0 and high <= 1:
        why = "Bytes are divided by 255, so the network gets black images; it seems that floats were cast to bytes."
        return _about_pixels("error", f"{seen}.", why, _TO_BYTES)
    if pixels.dtype == torch.uint8:
        return None
    if not math.isfinite(low + high):
        why = "No norm of a difference to such a pixel is a number."
        return _about_pixels("error", f"{seen}: some are NaN or infinite.", why, "Repair or leave out these images.")
    if low < 0:
        guess = "in [-1, 1]" if low >= -1 and high <= 1 else f"with deviation {float(pixels.float().std()):.2g}"
        why = "The threat's radius and the box [0, 1] refer to pixel fractions, so every attack would be another one."
        advice = "Undo the normalisation, store bytes, and let the model normalise (sparring.models.Normalised)."
        return _about_pixels("error", f"{seen}, {guess}: they look normalised.", why, advice)
    if pixels.is_floating_point() and high <= 1:
        why = "An evaluation divides pixels by 255, so the network would get black images."
        return _about_pixels("error", f"{seen}: pixel fractions, not bytes.", why, _TO_BYTES)
    if high > 255 or (pixels.is_floating_point() and high <= float(case.x.max())):
        why = "An evaluation divides pixels by 255 and assumes that they then lie in [0, 1]."
        return _about_pixels("error", f"{seen}, which is neither bytes nor fractions.", why, _TO_BYTES)
    why = "The scale is right, but images between two of the 256 grey levels cannot be stored or shown."
    return _about_pixels("note", f"{seen}: bytes in another type.", why, "Store them with .round().to(torch.uint8).")


def _mean(pixels: Tensor) -> float:
    return float(pixels.to(torch.float64).mean())


def _about_pixels(severity: Severity, seen: str, why: str, advice: str) -> Finding:
    return Finding("pixel-range", severity, seen, why, advice)


def label_range(case: Case) -> Finding | None:
    """Check whether the labels are 0 .. K-1."""
    low, high = int(case.y.min()), int(case.y.max())
    if low >= 0 and (case.classes is None or high < case.classes):
        return None
    known = "" if case.classes is None else f", but the data have {case.classes} classes"
    off_by_one = low >= 1 and high == case.classes
    return Finding(
        "label-range",
        "error",
        f"The labels run from {low} to {high}{known}.",
        "Labels are columns of the logits, counted from 0: an image with another label counts as misclassified.",
        "Subtract 1 from all labels." if off_by_one else "Number the classes 0, 1, 2, ... in the model's order.",
    )


def radius(case: Case) -> Finding | None:
    """Check whether eps makes sense in units of the pixel range [0, 1]."""
    threat, numbers = case.threat, math.prod(case.x.shape[1:])
    said = f"The radius is {threat.norm} {threat.eps}, {_in_levels(case, numbers)}"
    if threat.eps >= threat.geometry.to_grey(numbers):
        return _about_radius("warning", f"{said}.", _ALL_GREY)
    return by_norm(_RADII, threat.norm, "The check of the radius")(case, said)


def _in_levels(case: Case, numbers: int) -> str:
    """Return the radius in grey levels, those of each number on average where the ball is not one of single numbers."""
    levels = float(case.threat.eps) * 255 * 0.5 / case.threat.geometry.to_grey(numbers)
    if case.threat.geometry.bounds_numbers:
        return f"{levels:.3g} of 255 grey levels"
    return f"on average {levels:.2g} of 255 grey levels in each of {numbers} numbers"


def _linf_radius(case: Case, said: str) -> Finding | None:
    if case.threat.eps.exact < Fraction(1, 255):
        return _about_radius("warning", f"{said}.", "An 8-bit image cannot be changed by less than one grey level.")
    if case.threat.eps > 0.1 and case.x.shape[1] == _COLOURS:
        why = "Usual radii of colour images are 4/255 to 16/255; 0.3 is MNIST's, and the default of the AutoAttack package."
        return _about_radius("note", f"{said}, for colour images.", why)
    return None


def _l2_radius(case: Case, said: str) -> Finding | None:
    if case.threat.eps >= 0.1:
        return None
    why = "That is a usual size for Linf, whose radius is per pixel; an L2 radius is of the whole image."
    return _about_radius("warning", f"{said}.", why)


def _l1_radius(case: Case, said: str) -> Finding | None:
    if case.threat.eps >= 1:
        return None
    why = "It does not let a single pixel go from black to white; usual L1 radii are 5 to 15, 12 on CIFAR-10."
    return _about_radius("warning", f"{said}.", why)


_RADII: dict[NormName, Callable[[Case, str], Finding | None]] = {
    "Linf": _linf_radius,
    "L2": _l2_radius,
    "L1": _l1_radius,
}
_ALL_GREY = "Every image can become plain grey within it, so no network can be robust."


def _about_radius(severity: Severity, seen: str, why: str) -> Finding:
    advice = (
        "Check norm and unit: eps is a fraction of the pixel range, such as 8/255 for Linf, 0.5 for L2 or 12 for L1."
    )
    return Finding("radius", severity, seen, why, advice)
