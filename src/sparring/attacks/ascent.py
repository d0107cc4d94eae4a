"""The one loop of every gradient attack: climb an objective of the logits, step by step, inside the threat.

Radius, step size and number of steps may differ from sample to sample; samples that stop are masked, not removed, so
that no tensor's value is ever read on the host (design, rule 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sparring.threat import Budget, Threat, box, spread

Images = Float[Tensor, "B C H W"]
Objective: TypeAlias = Callable[[Tensor], Tensor]  # logits (B, K) -> per-sample values (B,)


@dataclass(frozen=True)
class Ascent:
    """Where an attack stands before its next step, for the rule that decides which samples take it."""

    x: Tensor  # (B, C, H, W), the original images
    delta: Tensor  # (B, C, H, W), the current perturbations
    logits: Tensor  # (B, K), at x + delta
    gradient: Tensor  # (B, C, H, W), of the objective at x + delta
    step: int


KeepGoing: TypeAlias = Callable[[Ascent], Bool[Tensor, " B"]]


def ascend(
    model: nn.Module,
    x: Images,
    objective: Objective,
    threat: Threat,
    budget: Budget,
    start: Images,
) -> Images:
    """The perturbation after `budget.steps` steps of steepest ascent from `start`, all (B, C, H, W).

    delta <- box(project(delta + alpha * steepest(gradient), eps)), projected gradient ascent (Madry et al., 2018). The
    radius takes effect with the first step, unless a sample may stop before it.
    """
    if budget.compact and isinstance(budget.steps, Tensor) and budget.keep_going is None:
        return _ascend_shrinking(model, x, objective, threat, budget, start)
    delta = start if budget.keep_going is None else box(x, threat.project(start, budget.eps))
    alpha = spread(budget.alpha, x)
    for step in range(budget.rounds or 0):
        gradient, logits = input_gradient(model, x + delta, objective)
        moved = box(x, threat.project(delta + alpha * threat.steepest(gradient), budget.eps))
        going = budget.keep_going(Ascent(x, delta, logits, gradient, step)) if budget.keep_going else None
        if isinstance(budget.steps, Tensor):
            has_steps = step < budget.steps
            going = has_steps if going is None else going & has_steps
        delta = moved if going is None else torch.where(spread(going, x), moved, delta)
    return delta


def _ascend_shrinking(
    model: nn.Module, x: Images, objective: Objective, threat: Threat, budget: Budget, start: Images
) -> Images:
    """The same on ever fewer samples: those with most steps stay longest. The host reads the numbers of steps, once."""
    assert isinstance(budget.steps, Tensor)
    order = budget.steps.argsort(descending=True, stable=True)
    turns = torch.arange(budget.rounds or 0, device=x.device)
    delta = start.clone()
    for count in (budget.steps > turns[:, None]).sum(1).tolist():
        rows = order[:count]
        if count == 0:
            break
        images, moving, eps, alpha = (_rows(value, rows) for value in (x, delta, budget.eps, budget.alpha))

        def of_these(logits: Tensor, rows: Tensor = rows) -> Tensor:
            # The objective knows the whole batch: the others' logits do not matter to these samples' values.
            everyone = logits.new_zeros(len(x), logits.shape[1]).index_copy(0, rows, logits)
            return objective(everyone)[rows]

        gradient, _ = input_gradient(model, images + moving, of_these)
        moved = threat.project(moving + spread(alpha, images) * threat.steepest(gradient), eps)
        delta[rows] = box(images, moved)
    return delta


def _rows(value: Any, rows: Tensor) -> Any:
    return value[rows] if isinstance(value, Tensor) else value


def input_gradient(model: Callable[[Tensor], Tensor], point: Images, objective: Objective) -> tuple[Tensor, Tensor]:
    """One forward and one backward to the pixels: the objective's gradient (B, C, H, W) and the logits (B, K).

    Both come detached. The values are summed: their mean would shrink each sample's gradient with the batch.
    """
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        logits = model(point)
        (gradient,) = torch.autograd.grad(objective(logits).sum(), point)
    return gradient, logits.detach()
