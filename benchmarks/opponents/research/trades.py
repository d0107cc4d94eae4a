"""TRADES and MART: attacks in evaluation mode, and losses of a clean and an adversarial prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script

NOISE = 1e-3  # standard deviation of the start


@dataclass
class ResearchTRADES(Script):
    """TRADES (Zhang et al., ICML 2019). The clean prediction is computed anew in every attack step.

    The released loss computes it a third time in training mode, which moves BatchNorm's statistics once more: left out here.

    Args:
        alpha: step size, in pixel fractions.
        steps: number of attack steps.
        beta: weight of the divergence.
    """

    alpha: float
    steps: int
    beta: float = 6.0

    @override
    def step(self, batch: Minibatch) -> None:
        x, y = batch.x, batch.y
        self.network.eval()
        delta = self.attack(x)
        self.network.train()
        clean, adversarial = self.network(x), self.network(x + delta)
        loss = F.cross_entropy(clean, y) + self.beta * _divergence(clean, adversarial) / len(y)
        self.descend(loss, adversarial, y)

    def attack(self, x: Tensor) -> Tensor:
        """Return the perturbation (B, C, H, W) of the largest divergence; only the gradient of the pixels is asked for."""
        delta = self.draws.normal(x, NOISE)
        for _ in range(self.steps):
            delta.requires_grad_()
            value = _divergence(self.network(x), self.network(x + delta))
            (gradient,) = torch.autograd.grad(value, delta)
            delta = self.moved(x, delta.detach(), self.alpha * gradient.sign())
        return delta


@dataclass
class ResearchMART(Script):
    """MART (Wang et al., ICLR 2020), with the released constants in the logarithm and the weight.

    Args:
        alpha: step size, in pixel fractions.
        steps: number of attack steps.
        beta: weight of the divergence.
    """

    alpha: float
    steps: int
    beta: float = 5.0

    @override
    def step(self, batch: Minibatch) -> None:
        x, y = batch.x, batch.y
        self.network.eval()
        delta = self.attack(x, y)
        self.network.train()
        clean, adversarial = self.network(x), self.network(x + delta)
        self.descend(self.loss(clean, adversarial, y), adversarial, y)

    def attack(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the perturbation (B, C, H, W) of the largest cross-entropy; only the pixels' gradient is computed."""
        delta = self.draws.normal(x, NOISE)
        for _ in range(self.steps):
            delta.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(self.network(x + delta), y), delta)
            delta = self.moved(x, delta.detach(), self.alpha * gradient.sign())
        return delta

    def loss(self, clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
        """Return boosted cross-entropy plus a divergence that counts for more the less sure the clean prediction is."""
        probabilities = adversarial.softmax(1)
        likeliest = torch.argsort(probabilities, dim=1)[:, -2:]
        rival = torch.where(likeliest[:, -1] == y, likeliest[:, -2], likeliest[:, -1])
        boosted = F.cross_entropy(adversarial, y) + F.nll_loss(torch.log(1.0001 - probabilities), rival)
        sure = clean.softmax(1).gather(1, y[:, None]).squeeze(1)
        divergence = F.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
        return boosted + self.beta * (divergence * (1.0000001 - sure)).mean()


def _divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Return KL(clean || adversarial) of logits (B, K), summed over the batch."""
    return F.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction="sum")
