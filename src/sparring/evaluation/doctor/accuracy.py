"""A check that the network is right far more often than by chance, and guesses at the reason if it is not."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparring.evaluation.doctor.case import Case
from sparring.evaluation.doctor.finding import Finding
from sparring.evaluation.doctor.significance import beyond_chance, outnumber

_GAIN = 0.2  # of all images: no healthy network is right so much more often on another scale, or with other names
_TRIED = 64  # images on each other scale
_FLAT = 1e-6  # the deviation of images that are all the same
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def right_answers(case: Case, logits: Tensor) -> Finding | None:
    """Check whether the network knows the images; if not, whether other names of the classes or another scale explain it."""
    predicted, y = logits.argmax(1).cpu(), case.y.cpu()
    if int(y.min()) < 0:
        return None  # which the check of the labels reports
    return _class_order(predicted, y) or _scale(case, predicted, y) or _chance(predicted, y)


def _class_order(predicted: Tensor, y: Tensor) -> Finding | None:
    """Check whether predictions are right under other names of the classes, which the other half of the images suggests."""
    classes = int(torch.maximum(predicted, y).max()) + 1
    halves = torch.arange(len(y)) % 2 == 0
    renamed = torch.where(
        halves,
        _names(predicted[~halves], y[~halves], classes)[predicted],
        _names(predicted[halves], y[halves], classes)[predicted],
    )
    if not outnumber(renamed == y, predicted == y, _GAIN) or not beyond_chance(renamed, y):
        return None
    names = _names(predicted, y, classes)
    examples = [f"{old} for {int(names[old])}" for old in sorted(set(predicted.tolist())) if names[old] != old][:3]
    return Finding(
        "class-order",
        "error",
        f"{_share(predicted == y)} of {len(y)} images are classified correctly, but {_share(renamed == y)} if classes are "
        f"renamed; the model says {', '.join(examples)}.",
        "Model and labels number the classes differently, so accuracy counts the wrong answers.",
        "Permute the labels to the order that the model was trained with (folders are sorted as text: 1, 10, 2).",
    )


def _names(predicted: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return the label (K,) that is most frequent where each class is predicted; its own name where it never is."""
    votes = torch.zeros(classes, classes).index_put_((predicted, y), torch.ones(()), accumulate=True)
    return torch.where(votes.sum(1) > 0, votes.argmax(1), torch.arange(classes))


def _scale(case: Case, predicted: Tensor, y: Tensor) -> Finding | None:
    """Check whether the network knows the first of the images on another scale."""
    y = y[:_TRIED]
    right = predicted[:_TRIED] == y
    if float(right.float().mean()) > 1 - _GAIN:
        return None  # nothing could be gained
    best, name, advice = right, "", ""
    for other_name, other_advice, x in _scales(case.x[:_TRIED]):
        answers = case.logits(x)
        found = answers.argmax(1).cpu()
        if outnumber(found == y, right, _GAIN) and beyond_chance(found, y) and (found == y).sum() > best.sum():
            best, name, advice = found == y, other_name, other_advice
    if not name:
        return None
    return Finding(
        "scale",
        "warning",
        f"{_share(right)} of {len(y)} images are classified correctly, but {_share(best)} if pixels are {name}.",
        "The network was trained on pixels of another scale than it gets, so clean and robust accuracy are too low.",
        advice,
    )


def _scales(x: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """Yield other images that the network may have been trained on, with what was done to x and what to do about it."""
    wrap = "Put the normalisation of its training in front of the network: sparring.models.Normalised(network, ...)."
    remove = "Remove one normalisation: the data's, or one of those inside the model."
    half = x.new_full((x.shape[1],), 0.5)
    statistics = {
        "the images' own mean and deviation": (x.mean((0, 2, 3)), x.std((0, 2, 3)).clamp_min(_FLAT)),
        "a mean and a deviation of 0.5": (half, half),
    }
    if x.shape[1] == len(_IMAGENET[0]):
        statistics["ImageNet's mean and deviation"] = x.new_tensor(_IMAGENET[0]), x.new_tensor(_IMAGENET[1])
    for said, (flat_mean, flat_std) in statistics.items():
        mean, std = flat_mean.view(1, -1, 1, 1), flat_std.view(1, -1, 1, 1)
        yield f"normalised with {said}", wrap, (x - mean) / std
        yield f"freed from a normalisation with {said}", remove, x * std + mean
    yield "multiplied by 255", "Let the model multiply its input by 255, or leave out a division by 255 in it.", x * 255


def _chance(predicted: Tensor, y: Tensor) -> Finding | None:
    if beyond_chance(predicted, y):
        return None
    counts = predicted.bincount()
    most = int(counts.argmax())
    return Finding(
        "chance",
        "warning",
        f"{_share(predicted == y)} of {len(y)} images are classified correctly, no more than by chance; "
        f"{_share(predicted == most)} are said to be of class {most}.",
        "There is no robustness to measure in a network that does not know the images.",
        "Check that the weights were loaded, that images and labels belong together, and the preprocessing.",
    )


def _share(flags: Tensor) -> str:
    return f"{100 * int(flags.sum()) / len(flags):.1f}%"
