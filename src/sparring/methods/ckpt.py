"""FGSM-CKPT: one-step training that goes only as far along its perturbation as each image needs to be fooled."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks import PGD, Ascent, BatchNormMode, attackable
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.methods.base import Loss, Method, Perturbation, Phase, Task
from sparring.threat import Budget, Ratio, Threat, check_step, per_sample


@dataclass
class CKPT(Method):
    """Train at the first of several points on the way to FGSM-RS's example that is misclassified (Kim et al., AAAI 2021).

    d is FGSM-RS's perturbation, its random start included. The points are x + (j / points) d, j = 1..points; where none
    fools, the last is taken, and where the random start does already, the image itself.

    Args:
        points: how many, c; at least 1, which checks the random start alone.
        alpha: FGSM-RS's step size; None is 1.25 eps.
        bn: BatchNorm in FGSM-RS's forward. The points between are evaluated in evaluation mode.

    Raises:
        BadInput: fewer than one point, or a step size that is not positive.
    """

    points: int = 3
    alpha: Ratio | None = None
    bn: BatchNormMode = "eval"
    _threat: Threat = field(init=False, repr=False, compare=False)
    _attack: PGD = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points < 1:
            raise BadInput(f"FGSM-CKPT needs at least 1 point, not {self.points}.")
        self._attack = PGD(steps=1, alpha=self.alpha, bn=self.bn)
        self.alpha = self._attack.alpha

    @override
    def setup(self, task: Task) -> None:
        check_step(self.alpha, task.threat)
        self._threat = task.threat
        if self.alpha is None:
            self._attack = replace(self._attack, alpha=Ratio(str(task.threat.eps.exact * 5 / 4)))

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        """Return the shortest of the points that fools the network; a budget's steps do not apply to a one-step method."""
        x, y = batch.x, batch.y
        astray = torch.zeros_like(y, dtype=torch.bool)

        def look(ascent: Ascent) -> Tensor:
            astray.logical_or_(ascent.logits.argmax(1) != y)
            return torch.ones_like(astray)

        budget = replace(budget or self._attack.budget(self._threat), steps=1, rounds=1, keep_going=look)
        start = self._attack.initial(x, self._threat, budget)
        whole = self._attack.run(model, x, self._attack.objective_for(y), self._threat, budget=budget, start=start)
        part = torch.ones_like(x[:, 0, 0, 0])  # (B,), j / points
        with torch.no_grad(), attackable(model, "eval"):
            for j in range(self.points - 1, 0, -1):
                fooled = model(x + (j / self.points) * whole).argmax(1) != y
                part = torch.where(fooled, j / self.points, part)
        delta = per_sample(torch.where(astray, 0.0, part), x) * whole
        return Perturbation(delta, start)

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Return CE(f(x + delta), y)."""
        logits = model(batch.x + perturbation.delta)
        return Loss(cross_entropy(logits, batch.y).mean(), logits)
