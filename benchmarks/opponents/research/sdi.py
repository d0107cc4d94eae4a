"""FGSM-SDI: one step from a start that a generator draws, which is trained now and then."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script, smoothed_loss


@dataclass
class ResearchSDI(Script):
    """FGSM-SDI (Jia et al., TIP 2022), BatchNorm of the target in training mode throughout.

    Gradients of the pixels are asked for alone. But the target's backward runs through the generator in every step, and the
    generator's computes the target's weight gradients.

    Args:
        generator: draws a start (B, C, H, W) in units of eps from image and sign, (B, 2 C, H, W).
        generator_optimizer: moves its weights.
        classes: number of classes K.
        kept: mass of the smoothed label that stays on the true class, in both losses.
        interval: target steps between two of the generator's.
        batches: seen so far.
    """

    generator: nn.Module
    generator_optimizer: torch.optim.Optimizer
    classes: int
    kept: float = 0.5
    interval: int = 20
    batches: int = 0

    @override
    def step(self, batch: Minibatch) -> None:
        x, y = batch.x, batch.y
        sign = self._gradient(x, y).sign()
        if self.batches % self.interval == 0:
            self.generator.train()
            gain = smoothed_loss(self.network(x + self._delta(x, y, sign)), y, self.classes, self.kept)
            self.generator_optimizer.zero_grad()
            (-gain).backward()
            self.generator_optimizer.step()
        self.batches += 1
        self.generator.eval()
        logits = self.network(x + self._delta(x, y, sign))
        self.descend(smoothed_loss(logits, y, self.classes, self.kept), logits, y)

    def _delta(self, x: Tensor, y: Tensor, sign: Tensor) -> Tensor:
        """Return the perturbation (B, C, H, W), with the generator's graph."""
        start = self.eps * self.generator(torch.cat([x, sign], dim=1))
        step = (self.eps * self._gradient(x + start, y).sign()).clamp(-self.eps, self.eps)
        return (start + step).clamp(-self.eps, self.eps)

    def _gradient(self, point: Tensor, y: Tensor) -> Tensor:
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(self.network(point), y), point)
        return gradient
