"""FGSM-GA: FGSM from the image itself, and a loss that keeps input gradients from turning inside the ball."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script, wasteful_gradient


@dataclass
class ResearchGradAlign(Script):
    """GradAlign (Andriushchenko and Flammarion, NeurIPS 2020), BatchNorm in training mode throughout.

    The attack's backward computes weight gradients; images without a gradient are indexed away, for which the host waits.

    Args:
        weight: of the penalty.
    """

    weight: float = 0.2

    @override
    def step(self, batch: Minibatch) -> None:
        x, y = batch.x, batch.y
        first = wasteful_gradient(self.network, x, y, torch.zeros_like(x))
        delta = self.moved(x, torch.zeros_like(x), self.eps * first.sign())
        logits = self.network(x + delta)
        loss = F.cross_entropy(logits, y) + self.weight * self._misalignment(x, y, first)
        self.descend(loss, logits, y)

    def _misalignment(self, x: Tensor, y: Tensor, first: Tensor) -> Tensor:
        """Return the mean of 1 - cos between the gradient at the image and one at a random place in the ball."""
        point = (x + self.draws.uniform(x, self.eps)).requires_grad_()
        (second,) = torch.autograd.grad(F.cross_entropy(self.network(point), y), point, create_graph=True)
        lengths = [(gradient**2).sum([1, 2, 3]) ** 0.5 for gradient in (first, second)]
        present = (lengths[0] != 0) * (lengths[1] != 0)
        units = [
            gradient[present] / length[present][:, None, None, None]
            for gradient, length in zip((first, second), lengths, strict=True)
        ]
        return (1 - (units[0] * units[1]).sum([1, 2, 3])).mean()
