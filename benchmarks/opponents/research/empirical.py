"""Standard training, and PGD adversarial training with FGSM-AT and FGSM-RS as its cases of one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script, into_box, wasteful_gradient


@dataclass
class ResearchStandard(Script):
    """Training on the images themselves: nothing is wasted here but the wait for the loss."""

    @override
    def step(self, batch: Minibatch) -> None:
        logits = self.network(batch.x)
        self.descend(F.cross_entropy(logits, batch.y), logits, batch.y)


@dataclass
class ResearchPGD(Script):
    """PGD adversarial training (Madry et al., ICLR 2018), BatchNorm in training mode throughout.

    FGSM-RS (Wong et al., ICLR 2020) is the case of one step, FGSM-AT that of one step from the image itself. Every attack
    step computes weight gradients.

    Args:
        alpha: step size, in pixel fractions.
        steps: number of attack steps.
        start: uniform in the ball, or zero.
    """

    alpha: float
    steps: int
    start: Literal["uniform", "zero"] = "uniform"

    @override
    def step(self, batch: Minibatch) -> None:
        logits = self.network(batch.x + self.attack(batch.x, batch.y))
        self.descend(F.cross_entropy(logits, batch.y), logits, batch.y)

    def attack(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the perturbation (B, C, H, W) after the last step."""
        delta = self.draws.uniform(x, self.eps) if self.start == "uniform" else torch.zeros_like(x)
        delta = into_box(x, delta)
        for _ in range(self.steps):
            gradient = wasteful_gradient(self.network, x, y, delta)
            delta = self.moved(x, delta.detach(), self.alpha * gradient.sign())
        return delta
