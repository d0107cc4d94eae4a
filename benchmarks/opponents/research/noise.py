"""N-FGSM and FGSM-CKPT: one step from noise, taken whole, or only as far as each image needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script, into_box, wasteful_gradient


@dataclass
class ResearchNFGSM(Script):
    """N-FGSM (de Jorge et al., NeurIPS 2022), BatchNorm in training mode; the step computes weight gradients.

    Args:
        noise: radius of the start, in radii of the threat.
    """

    noise: float

    @override
    def step(self, batch: Minibatch) -> None:
        start = into_box(batch.x, self.draws.uniform(batch.x, self.noise * self.eps))
        gradient = wasteful_gradient(self.network, batch.x, batch.y, start)
        delta = into_box(batch.x, start.detach() + self.eps * gradient.sign())
        logits = self.network(batch.x + delta)
        self.descend(F.cross_entropy(logits, batch.y), logits, batch.y)


@dataclass
class ResearchCKPT(Script):
    """FGSM-CKPT (Kim et al., AAAI 2021), BatchNorm in evaluation mode in the attack, which computes weight gradients.

    Args:
        alpha: step size, in pixel fractions.
        points: on the way to the perturbed image, it included.
    """

    alpha: float
    points: int

    @override
    def step(self, batch: Minibatch) -> None:
        x, y = batch.x, batch.y
        self.network.eval()
        start = into_box(x, self.draws.uniform(x, self.eps))
        start.requires_grad = True
        logits = self.network(x + start)
        F.cross_entropy(logits, y).backward()
        assert start.grad is not None
        whole = self.moved(x, start.detach(), self.alpha * start.grad.sign())
        part = torch.ones_like(x[:, :1, :1, :1])
        with torch.no_grad():
            for point in range(self.points - 1, 0, -1):
                part[self.network(x + point / self.points * whole).max(1)[1] != y] = point / self.points
        part[logits.max(1)[1] != y] = 0
        self.network.train()
        logits = self.network(x + part * whole)
        self.descend(F.cross_entropy(logits, y), logits, y)
