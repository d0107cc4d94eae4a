"""Checks of what the network returns: logits, one row an image and one column a class."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.evaluation.doctor.case import Case
from sparring.evaluation.doctor.finding import Finding

_CLOSE = 1e-4  # rounding of single precision, in sums of probabilities
_EXACT = (torch.float32, torch.float64)


def shape(case: Case, answer: object) -> Finding | None:
    """Check whether the answer to N images is a tensor (N, K) with at least two columns."""
    if isinstance(answer, Tensor) and answer.ndim == 2 and len(answer) == len(case.few) and answer.shape[1] > 1:
        return None
    seen = f"of shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
    return Finding(
        "output-shape",
        "error",
        f"For {len(case.few)} images the model returned {seen} instead of {len(case.few)} rows of logits.",
        "Attacks and accuracies need one row an image and one column a class.",
        "Wrap the model so that its forward returns the logits alone, as a tensor (images, classes); two classes need "
        "two columns, such as 0 and z.",
    )


def finite(case: Case, logits: Tensor) -> Finding | None:
    """Check whether all logits are finite numbers."""
    bad = int((~logits.isfinite()).any(1).sum())
    if bad == 0:
        return None
    kind = "NaN" if bool(logits.isnan().any()) else "infinite"
    return Finding(
        "not-finite",
        "error",
        f"For {bad} of {len(logits)} images some logits are {kind}.",
        "Every comparison with NaN is false, losses and gradients become NaN, and attacks stand still.",
        "Find the layer that overflows (half precision? a division by a norm of zero?) and repair it.",
    )


def classes(case: Case, logits: Tensor) -> Finding | None:
    """Check whether there is a column for each class, and no other."""
    columns = logits.shape[1]
    largest = int(case.y.max())
    needed = max(case.classes or 0, largest + 1)
    known = f"the data have {case.classes}" if case.classes else f"the largest label is {largest}"
    if columns < needed:
        return Finding(
            "classes",
            "error",
            f"The model tells {columns} classes apart, but {known}.",
            "Images of the classes that it lacks always count as misclassified, and losses of their labels fail.",
            "Use the model for these data, or evaluate on the classes that it knows.",
        )
    if case.classes and columns > case.classes:
        return Finding(
            "classes",
            "warning",
            f"The model tells {columns} classes apart, but {known}.",
            "An attack may make it answer a class that no image has, which is easier than one of the right classes.",
            "Select the columns of the data's classes: logits[:, columns].",
        )
    return None


def probabilities(case: Case, logits: Tensor) -> Finding | None:
    """Check whether the network ends with a softmax or a logarithm of one."""
    values = logits.double()
    if bool(((values >= 0) & (values <= 1)).all()) and bool(((values.sum(1) - 1).abs() < _CLOSE).all()):
        return Finding(
            "probabilities",
            "error",
            f"The outputs lie in [0, 1] and each of the {len(logits)} rows sums to 1: probabilities, not logits.",
            "Cross-entropy takes another softmax of them, whose gradients vanish, so attacks fail and robustness is "
            "overestimated.",
            "Remove the final softmax; if that is impossible, return the logarithm of its outputs.",
        )
    if bool((values.logsumexp(1).abs() < _CLOSE).all()):
        return Finding(
            "log-probabilities",
            "note",
            f"The exponentials of each of the {len(logits)} rows sum to 1: log-probabilities, not logits.",
            "Cross-entropy, margin and DLR are the same as of logits, unless rounding has lost small differences.",
            "Nothing needs to be done; a model without the final log-softmax is the clearer one.",
        )
    return None


def precision(case: Case, logits: Tensor) -> Finding | None:
    """Check whether the network computes in single precision."""
    floats = [tensor for tensor in case.model.parameters() if tensor.is_floating_point()]
    low = [tensor for tensor in floats if tensor.dtype not in _EXACT]
    if not low and logits.dtype in _EXACT:
        return None
    named = str(low[0].dtype if low else logits.dtype).removeprefix("torch.")
    where = f"{len(low)} of {len(floats)} parameter tensors are" if low else "The logits are"
    return Finding(
        "precision",
        "warning",
        f"{where} {named}.",
        "Small gradients become zero and different logits equal, which weakens attacks and turns near-ties.",
        "Evaluate in single precision: model.float(), and no autocast inside the forward.",
    )
