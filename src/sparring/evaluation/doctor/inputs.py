"""Checks of pixels, labels and radius, which no network is needed for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch

from sparring.evaluation.doctor.case import Case, said_by
from sparring.evaluation.doctor.finding import Finding, Severity
from sparring.norms import NormName, by_norm
from sparring.threat import Threat

_COLOURS = 3
_FEW = 0.01  # of the images: so many may be in both parts of a data set as it comes
_BLACK = 1.01 / 255  # what bytes of 0 and 1 become


def pixel_range(case: Case) -> Finding | None:
    """Check whether the pixels use their range; `Images` has refused what is neither bytes nor fractions."""
    if float(case.x.max()) > _BLACK:
        return None
    pixels = case.pixels
    kind = str(pixels.dtype).removeprefix("torch.")
    low, high, mean = float(pixels.min()), float(pixels.max()), float(pixels.to(torch.float64).mean())
    seen = f"The pixels are {kind} from {low:.4g} to {high:.4g}, with mean {mean:.3g}."
    if pixels.is_floating_point():
        why = (
            "Fractions are taken as they are, so the network gets black images; it seems that they were divided twice."
        )
        return Finding("pixel-range", "error", seen, why, "Divide bytes by 255 once.")
    why = "Bytes are divided by 255, so the network gets black images; it seems that floats were cast to bytes."
    return Finding("pixel-range", "error", seen, why, "Give the floats in [0, 1] themselves.")


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


def class_names(case: Case) -> Finding | None:
    """Check whether the model's classes are called as the data's are; only a network of our own says their names."""
    names = said_by(case.model, "class_names")
    if not isinstance(names, tuple) or not case.class_names or names == case.class_names:
        return None
    number = {name: position for position, name in enumerate(names)}
    moved = [name for label, name in enumerate(case.class_names) if number.get(name, label) != label]
    if moved:
        here, there = case.class_names.index(moved[0]), number[moved[0]]
        return Finding(
            "class-names",
            "error",
            f"The class {moved[0]!r} is number {here} of the data, but number {there} of the model ({len(moved)} such).",
            "Right answers would count as wrong ones, and an attack as a success before it began.",
            "Give the data the classes that the model was trained on, in their order.",
        )
    if len(names) != len(case.class_names):
        return None  # `outputs.classes` says more
    renamed = [pair for pair in zip(names, case.class_names, strict=True) if pair[0] != pair[1]]
    theirs, ours = renamed[0]
    return Finding(
        "class-names",
        "note",
        f"The model's class {theirs!r} is called {ours!r} by the data ({len(renamed)} such).",
        "If they are other classes, accuracy means nothing.",
        "Look whether both mean the same by the same number.",
    )


def seen_images(case: Case) -> Finding | None:
    """Check whether the model was trained on the images; only our own networks say which those were."""
    seen, count = case.seen
    if not seen:
        return None
    return Finding(
        "seen-images",
        "error" if seen > _FEW * count else "warning",
        f"{seen} of the {count} images are among those that the model was trained on, pixel for pixel.",
        "What is found on them says nothing of new images.",
        "Test on images that were kept apart: where Sparring divides them, restore images and data.seed as they were, or "
        "give new ones as data.path, a folder with test/ in it.",
    )


def image_size(case: Case) -> Finding | None:
    """Check whether the images have the size that the model was trained on; only our own networks say which that was."""
    trained, given = said_by(case.model, "image_size"), tuple(case.x.shape[2:])
    if trained is None or trained == given:
        return None
    sizes = [f"{height} x {width}" for height, width in (given, trained)]
    return Finding(
        "image-size",
        "warning",
        f"The images have {sizes[0]} pixels, those that the model was trained on {sizes[1]}.",
        "Accuracy at another resolution is usually lower, and the same eps is another threat.",
        "Resize the images as in training, by data.size.",
    )


def radius(case: Case) -> Finding | None:
    """Check whether eps makes sense in units of the pixel range [0, 1]."""
    return radius_of(case.threat, case.x.shape[1:])


def radius_of(threat: Threat, shape: Sequence[int]) -> Finding | None:
    """Check whether eps makes sense for images of this shape (C, H, W)."""
    numbers = math.prod(shape)
    said = f"The radius is {threat.norm} {threat.eps}, {_in_levels(threat, numbers)}"
    if threat.eps >= threat.geometry.to_grey(numbers):
        return _about_radius("warning", f"{said}.", _ALL_GREY)
    return by_norm(_RADII, threat.norm, "The check of the radius")(threat, shape[0], said)


def _in_levels(threat: Threat, numbers: int) -> str:
    """Return the radius in grey levels, those of each number on average where the ball is not one of single numbers."""
    levels = float(threat.eps) * 255 * 0.5 / threat.geometry.to_grey(numbers)
    if threat.geometry.bounds_numbers:
        return f"{levels:.3g} of 255 grey levels"
    return f"on average {levels:.2g} of 255 grey levels in each of {numbers} numbers"


def _linf_radius(threat: Threat, channels: int, said: str) -> Finding | None:
    if threat.eps.exact < Fraction(1, 255):
        return _about_radius("warning", f"{said}.", "An 8-bit image cannot be changed by less than one grey level.")
    if threat.eps > 0.1 and channels == _COLOURS:
        why = "Usual radii of colour images are 4/255 to 16/255; 0.3 is MNIST's, and the default of the AutoAttack package."
        return _about_radius("note", f"{said}, for colour images.", why)
    return None


def _l2_radius(threat: Threat, channels: int, said: str) -> Finding | None:
    if threat.eps >= 0.1:
        return None
    why = "That is a usual size for Linf, whose radius is per pixel; an L2 radius is of the whole image."
    return _about_radius("warning", f"{said}.", why)


def _l1_radius(threat: Threat, channels: int, said: str) -> Finding | None:
    if threat.eps >= 1:
        return None
    why = "It does not let a single pixel go from black to white; usual L1 radii are 5 to 15, 12 on CIFAR-10."
    return _about_radius("warning", f"{said}.", why)


_RADII: dict[NormName, Callable[[Threat, int, str], Finding | None]] = {
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
