"""Checks that an answer depends on the image alone: not on modes, chance, other images, or earlier ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from sparring.evaluation.doctor.case import Case
from sparring.evaluation.doctor.finding import Finding
from sparring.evaluation.network import untouched

_REPEATS = 4
_NOISE = 1e-4  # of the largest logit: what the order of sums may change, where shapes are the same


def training_mode(case: Case, logits: Tensor) -> Finding | None:
    """Check whether the network was in training mode, and what that changes."""
    if not case.in_training:
        return None
    with untouched(case.model):
        try:
            for module in case.in_training:
                module.training = True
            found = case.logits(case.x)
        except Exception:  # whatever the user's code raises: it does so in a mode that is not evaluated
            return None
        finally:
            for module in case.in_training:
                module.training = False
    norms = sum(isinstance(module, _BatchNorm) for module in case.in_training)
    dropouts = sum(isinstance(module, _DropoutNd) for module in case.in_training)
    known = norms + dropouts > 0
    if _same(found, logits) or (not known and not _same(case.logits(case.x), logits)):
        return None  # the latter is random in any mode
    changed = int((found.argmax(1) != logits.argmax(1)).sum())
    return Finding(
        "training-mode",
        "warning",
        f"The model came in training mode ({norms} BatchNorm and {dropouts} Dropout modules), in which {changed} of "
        f"{len(logits)} predictions differ: accuracy {_accuracy(found, case.y)} instead of {_accuracy(logits, case.y)}.",
        "Sparring evaluates in evaluation mode, so its figures are not those of code that calls the model as it is.",
        "Call model.eval() first; if it is meant to be random, make it so in evaluation mode, too.",
    )


def random_answers(case: Case, logits: Tensor) -> Finding | None:
    """Check whether the same images get the same logits again."""
    x = case.few
    answers = [case.logits(x) for _ in range(_REPEATS)]
    differing = [answer for answer in answers[1:] if not _same(answer, answers[0])]
    if not differing:
        return None
    largest = max(float((answer - answers[0]).abs().max()) for answer in differing)
    predictions = torch.stack([answer.argmax(1) for answer in answers])  # (4, B)
    changing = int((predictions != predictions[0]).any(0).sum())
    return Finding(
        "random",
        "warning",
        f"In {_REPEATS} passes over the same {len(x)} images logits differed by up to {largest:.2g}, and the predictions "
        f"of {changing} changed.",
        "An attack follows the gradient of one draw and is verified by another, so robustness is overestimated.",
        "Average gradients over draws (EOT) and use AutoAttack's version rand; report the mean over several runs.",
    )


def batch_dependence(case: Case, logits: Tensor) -> Finding | None:
    """Check whether the same images get the same logits beside others.

    The others are inverted and not fewer: batches of another size may use other kernels, which round differently.
    """
    own, others = case.few.chunk(2)
    answer, again = (case.logits(torch.cat([own, others]))[: len(own)] for _ in range(2))
    if not _same(answer, again):
        return None  # random, which the check for it reports
    beside = case.logits(torch.cat([own, 1 - others]))[: len(own)]
    if _same(answer, beside):
        return None
    changed = int((answer.argmax(1) != beside.argmax(1)).sum())
    return Finding(
        "batch-dependent",
        "error",
        f"Beside other images the logits of {len(own)} images changed by up to {float((answer - beside).abs().max()):.2g}, "
        f"and {changed} predictions with them.",
        "Attacks are run on batches of any composition, so no figure would be that of the image, or repeatable.",
        "Use statistics of training in evaluation mode: BatchNorm with track_running_stats=True, no batch means.",
    )


def changing_state(case: Case, logits: Tensor) -> Finding | None:
    """Check whether a pass in evaluation mode leaves parameters and buffers alone."""
    with untouched(case.model):
        before = {name: tensor.clone() for name, tensor in _state(case).items()}
        case.logits(case.few)
        after = _state(case)
        changed = [name for name, tensor in after.items() if name in before and not _equal(before[name], tensor)]
    if not changed:
        return None
    return Finding(
        "changing-state",
        "error",
        f"A pass in evaluation mode changed {len(changed)} of {len(before)} parameters and buffers, such as {changed[0]}.",
        "The network under attack becomes another one with every step, so figures depend on the order of all passes.",
        "Freeze this state in evaluation mode, for example where self.training is False.",
    )


def changing_input(case: Case, logits: Tensor) -> Finding | None:
    """Check whether the forward pass leaves the images alone that it is given."""
    x = case.few.clone()
    with torch.no_grad():
        case.model(x)
    if torch.equal(x, case.few):
        return None
    return Finding(
        "changing-input",
        "error",
        f"A forward pass changed the images that it was given by up to {float((x - case.few).abs().max()):.3g}.",
        "An attack goes on from images that are no longer those that it made, and the next pass sees others.",
        "Replace operations in place on the input (sub_, div_, x[...] = ...) by x = x - mean and the like.",
    )


def _state(case: Case) -> dict[str, Tensor]:
    return {**dict(case.model.named_parameters()), **dict(case.model.named_buffers())}


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())


def _same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= _NOISE * other.abs().max())


def _accuracy(logits: Tensor, y: Tensor) -> str:
    return f"{100 * int((logits.argmax(1) == y).sum()) / len(y):.1f}%"
