"""Checks that gradients reach the pixels and are of use there, and that the forward pass takes none of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sparring.attacks import Objective
from sparring.errors import first_line
from sparring.evaluation.doctor.case import Case
from sparring.evaluation.doctor.finding import Finding
from sparring.evaluation.network import untouched
from sparring.losses import cross_entropy, margin

_AT_ONCE = 32  # images in a backward pass
_SHARE = 0.05  # of images without a gradient: fewer may be dead by chance
_REFUSED = "saved tensor hooks"  # what torch.func's derivatives say where hooks are set
_BPDA = "give attacks a substitute for the backward pass (BPDA)"


class NoGradient(Exception):
    """The backward pass does not get from the logits to the pixels; the message says how it failed."""


def gradients(model: nn.Module, x: Tensor, objective: Objective) -> Tensor:
    """Return the gradients (B, C, H, W) of the objective's values; raises NoGradient where there are none to take."""
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        try:
            values = objective(model(point)).sum()
        except RuntimeError as error:  # without a graph it ran: changing the pixels in place, for example
            raise NoGradient(f"the forward pass raised {said(error)}") from error
        if not values.requires_grad:
            raise NoGradient("the logits do not require a gradient")
        try:
            (gradient,) = torch.autograd.grad(values, point, allow_unused=True)
        except RuntimeError as error:
            raise NoGradient(f"the backward pass raised {said(error)}") from error
    if gradient is None:
        raise NoGradient("the logits have a graph that does not contain the pixels")
    return gradient


def said(error: Exception) -> str:
    """Return the kind of an exception and the first line of what it says."""
    return f"{type(error).__name__}: {first_line(error)}"


def useful_gradients(case: Case, logits: Tensor) -> Finding | None:
    """Check whether the margin has gradients that are finite and not exactly zero.

    The label is the prediction, so that the check does not depend on the labels; the margin, because that of
    cross-entropy may vanish by saturation alone.
    """
    try:
        gradient = _first_gradients(case, logits, margin).flatten(1)
    except NoGradient as failure:
        return no_gradient(failure)
    broken = int((~gradient.isfinite()).any(1).sum())
    if broken:
        return Finding(
            "nan-gradient",
            "error",
            f"For {broken} of {len(gradient)} images the gradient to the pixels is NaN or infinite.",
            "The first step of an attack makes such an image NaN, and it is never fooled or counted wrongly.",
            "Look for derivatives at zero: sqrt, norm, log or a division, and keep them away from it by a small constant.",
        )
    return zero_gradients(gradient, "difference of the two largest logits")


def saturation(case: Case, logits: Tensor) -> Finding | None:
    """Check whether softmax rounds to 0 and 1, so that cross-entropy has no gradient where the margin has one.

    The label is the prediction, as it is for the images that an attack begins with.
    """
    try:
        entropy, difference = (_first_gradients(case, logits, loss).flatten(1) for loss in (cross_entropy, margin))
    except NoGradient:
        return None  # `useful_gradients` says so
    saturated = int(((entropy == 0).all(1) & ~(difference == 0).all(1)).sum())
    if saturated <= _SHARE * len(entropy):
        return None
    return Finding(
        "saturation",
        "warning",
        f"For {saturated} of {len(entropy)} images the gradient of cross-entropy is exactly zero, and that of the margin is "
        "not.",
        "The logits are so far apart that softmax rounds to 0 and 1: FGSM and PGD, which climb cross-entropy, stand still "
        "(Carlini and Wagner, 2017).",
        "Use attacks on the margin or on DLR (C&W, AutoAttack), which do not depend on the scale of the logits.",
    )


def _first_gradients(case: Case, logits: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the gradients (N, C, H, W) of a loss of the first images' logits and predictions; raise NoGradient."""
    parts = []
    for x, y in zip(
        torch.split(case.x[: 2 * _AT_ONCE], _AT_ONCE), torch.split(logits.argmax(1), _AT_ONCE), strict=False
    ):
        parts.append(gradients(case.model, x, lambda z, y=y: loss(z, y)))  # type: ignore[misc]
    return torch.cat(parts)


def no_gradient(failure: NoGradient) -> Finding:
    """Return the finding about a network that has no gradient."""
    return Finding(
        "no-gradient",
        "error",
        f"There is no gradient from the logits to the pixels: {failure}.",
        "Attacks that follow gradients cannot run, which says nothing about robustness (Athalye et al., ICML 2018).",
        f"Remove detach(), no_grad and other libraries from the forward, or {_BPDA}.",
    )


def zero_gradients(gradient: Tensor, of: str) -> Finding | None:
    """Check whether more than a few of the images have a gradient (B, D) that is exactly zero."""
    dead = int((gradient == 0).flatten(1).all(1).sum())
    if dead <= _SHARE * len(gradient):
        return None
    return Finding(
        "zero-gradient",
        "error",
        f"For {dead} of {len(gradient)} images the gradient of the {of} to the pixels is exactly zero.",
        "Attacks that follow gradients stand still there, so these images look robust and are not (gradient masking).",
        f"Look for rounding, thresholds, argmax or clamping in the forward; {_BPDA}.",
    )


def inner_optimisation(case: Case, logits: Tensor) -> Finding | None:
    """Check whether the forward pass runs a backward pass of its own.

    Hooks on the tensors that operations save are called when, and only when, a backward pass reads them; here none
    should during a forward pass. They hold for this thread and this pass, and see what torch.compile runs as well.
    """
    reads = 0

    def read(tensor: Tensor) -> Tensor:
        nonlocal reads
        reads += 1
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(lambda tensor: tensor, read):
        try:
            case.model(case.few[:2].clone().requires_grad_())
        except RuntimeError as error:
            # Else it has no gradients, which the check for them reports.
            return optimises("torch.func takes derivatives in it") if _REFUSED in str(error) else None
    return optimises(f"a backward pass in it read {reads} stored tensors") if reads else None


def trains_inside(case: Case) -> bool:
    """Return whether the forward pass, which has failed, succeeds once parameters are not frozen: it needs gradients."""
    parameters = [parameter for parameter in case.model.parameters() if parameter.is_floating_point()]
    with untouched(case.model):
        try:
            for parameter in parameters:
                parameter.requires_grad_()
            case.logits(case.few)
        except Exception:  # it fails for another reason, too
            return False
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
    return True


def optimises(seen: str) -> Finding:
    """Return the finding about a network that computes gradients in its forward pass."""
    return Finding(
        "inner-optimisation",
        "warning",
        f"The forward pass computes gradients of its own: {seen}.",
        "Attacks see the last pass and not how the optimisation reacts to them, so robustness is often overestimated.",
        "Attack the network without that part too, through it (BPDA), and with transfer attacks; say so beside the figure.",
    )
