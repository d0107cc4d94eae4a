"""The one loop of every gradient attack: climb an objective of the logits, step by step, inside the threat.

Radius, step size and number of steps may differ from sample to sample. Samples that stop are masked, so that no tensor's
value is read on the host, which would wait for the device and could not be captured; with `Budget.compact` they leave the
batch, which does read values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.threat import Budget, ImageBatch, Threat, per_sample

Objective: TypeAlias = Callable[[Tensor], Tensor]  # logits (B, K) -> per-sample values (B,)


@dataclass(frozen=True)
class Ascent:
    """Where an attack stands before its next step, for the rule that decides which samples take it.

    Of a sample that has left the batch (`Budget.compact`), logits and gradient are those of its last forward pass, if any.
    """

    x: Tensor  # (B, C, H, W), the original images
    delta: Tensor  # (B, C, H, W), the current perturbations
    logits: Tensor  # (B, K), at x + delta
    gradient: Tensor  # (B, C, H, W), of the objective at x + delta
    step: int


KeepGoing: TypeAlias = Callable[[Ascent], Bool[Tensor, " B"]]


def ascend(
    model: nn.Module,
    x: ImageBatch,
    objective: Objective,
    threat: Threat,
    budget: Budget,
    start: ImageBatch,
) -> ImageBatch:
    """Return the perturbation after `budget.steps` steps of steepest ascent from `start`, all (B, C, H, W).

    delta <- confine(delta + alpha steepest(gradient)), projected gradient ascent (Madry et al., 2018): `Threat.confine`
    projects onto the ball and then clips to the pixel box, in L1 onto both at once. The start is put inside the ball
    beforehand only where `keep_going` may stop a sample before its first step.
    """
    delta = start if budget.keep_going is None else threat.confine(x, start, budget.eps)
    if budget.compact and (isinstance(budget.steps, Tensor) or budget.keep_going is not None):
        return _ascend_shrinking(model, x, objective, threat, budget, delta)
    alpha = per_sample(budget.alpha, x)
    for step in range(budget.rounds or 0):
        gradient, logits = input_gradient(model, x + delta, objective)
        moved = threat.confine(x, delta + alpha * threat.steepest(gradient), budget.eps)
        going = budget.keep_going(Ascent(x, delta, logits, gradient, step)) if budget.keep_going else None
        if isinstance(budget.steps, Tensor):
            has_steps = step < budget.steps
            going = has_steps if going is None else going & has_steps
        delta = moved if going is None else torch.where(per_sample(going, x), moved, delta)
    return delta


def _ascend_shrinking(
    model: nn.Module, x: ImageBatch, objective: Objective, threat: Threat, budget: Budget, delta: ImageBatch
) -> ImageBatch:
    """Return the same on ever fewer samples: one without steps left, or once told not to go on, leaves for good.

    The host reads the numbers of steps, once, and what the rule says, at every step.
    """
    rounds = budget.rounds or 0
    steps = budget.steps.tolist() if isinstance(budget.steps, Tensor) else [rounds] * len(x)
    going = list(range(len(x)))
    gradient, logits = torch.zeros_like(x), None
    for step in range(rounds):
        going = [i for i in going if step < steps[i]]
        if not going:
            break
        rows = torch.tensor(going, device=x.device)
        images, current, eps, alpha = (_rows(value, rows) for value in (x, delta, budget.eps, budget.alpha))

        def of_these(own: Tensor, rows: Tensor = rows) -> Tensor:
            # The objective knows the whole batch: the others' logits do not matter to these samples' values.
            return objective(_placed(own, rows, len(x)))[rows]

        own_gradient, own_logits = input_gradient(model, images + current, of_these)
        ahead = current + per_sample(alpha, images) * threat.steepest(own_gradient)
        moved = threat.confine(images, ahead, eps)
        if budget.keep_going is not None:
            gradient = gradient.index_copy(0, rows, own_gradient)
            logits = _placed(own_logits, rows, len(x)) if logits is None else logits.index_copy(0, rows, own_logits)
            allowed = budget.keep_going(Ascent(x, delta, logits, gradient, step))[rows]
            moved = torch.where(per_sample(allowed, images), moved, current)
            going = [i for i, may in zip(going, allowed.tolist(), strict=True) if may]
        delta = delta.index_copy(0, rows, moved)
    return delta


def _placed(own: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return the values of these rows among zeros for the others, (count, K)."""
    return own.new_zeros(count, own.shape[1]).index_copy(0, rows, own)


def _rows(value: Any, rows: Tensor) -> Any:
    return value[rows] if isinstance(value, Tensor) else value


def input_gradient(model: Callable[[Tensor], Tensor], point: ImageBatch, objective: Objective) -> tuple[Tensor, Tensor]:
    """Return the objective's gradient (B, C, H, W) to the pixels and the logits (B, K), by one forward and one backward.

    Both come detached. The values are summed: their mean would shrink each sample's gradient with the batch.
    Raises BadInput where no gradient gets from the logits to the pixels.
    """
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        logits = logits_with_graph(model, point)
        gradient = gradient_to(point, objective(logits).sum())
    return gradient, logits.detach()


def logits_with_graph(model: Callable[[Tensor], Tensor], point: ImageBatch) -> Tensor:
    """Return the logits (B, K) of pixels that require a gradient; raises BadInput where the logits have none."""
    try:
        logits = model(point)
    except RuntimeError as error:
        if "leaf Variable that requires grad" in str(error):
            raise BadInput(WRITES) from error
        raise
    if not logits.requires_grad:
        raise BadInput(_NO_GRADIENT)
    return logits


def gradient_to(point: Tensor, values: Tensor, slopes: Tensor | None = None, *, again: bool = False) -> Tensor:
    """Return the gradient of values to the point, of those with `slopes` their weighted sum's; `again` keeps the graph.

    Raises BadInput where the values do not depend on the point.
    """
    (gradient,) = torch.autograd.grad(values, point, slopes, retain_graph=again, allow_unused=True)
    if gradient is None:
        raise BadInput(_NO_GRADIENT)
    return gradient


WRITES = (
    "The model writes into the images that it is given (x -= mean, x.sub_(mean), x[:, 0] = ...): let its forward make new "
    "tensors, such as x - mean."
)
_NO_GRADIENT = (
    "The model gives no gradient of its logits to the pixels: take no_grad, inference_mode, detach and other libraries out "
    "of its forward, or give attacks a substitute for the backward pass (sparring.attacks.BPDA)."
)
