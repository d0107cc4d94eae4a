"""SAT, DART and GAIRAT: PGD that looks at every image in every step, and computes on for all of them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script, into_box


@dataclass
class ResearchMasked(Script):
    """An attack in evaluation mode, with weight gradients, in which images that have stopped are held where they are.

    Args:
        alpha: step size, in pixel fractions.
        steps: most attack steps.
    """

    alpha: float
    steps: int

    @override
    def step(self, batch: Minibatch) -> None:
        x, y = batch.x, batch.y
        self.network.eval()
        delta, going = into_box(x, self.draws.uniform(x, self.eps)), torch.ones_like(y, dtype=torch.bool)
        for step in range(self.steps):
            delta.requires_grad = True
            logits = self.network(x + delta)
            F.cross_entropy(logits, y, reduction="sum").backward()
            assert delta.grad is not None
            gradient, delta = delta.grad.detach(), delta.detach()
            going = going & self.may_go_on(step, logits.detach(), y, delta, gradient)
            moved = self.moved(x, delta, self.alpha * gradient.sign())
            delta = torch.where(going[:, None, None, None], moved, delta)
        self.network.train()
        logits = self.network(x + delta)
        self.descend(self.loss(logits, y), logits, y)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return what the optimizer descends."""
        return F.cross_entropy(logits, y)

    @abstractmethod
    def may_go_on(self, step: int, logits: Tensor, y: Tensor, delta: Tensor, gradient: Tensor) -> Tensor:
        """Return which images (B,) the rule lets take this step."""


@dataclass
class ResearchSAT(ResearchMasked):
    """SAT (Sitawarin et al., AISec 2021): as long as the difference of probabilities is at most `gap`."""

    gap: float

    @override
    def may_go_on(self, step: int, logits: Tensor, y: Tensor, delta: Tensor, gradient: Tensor) -> Tensor:
        probabilities = logits.softmax(1)
        own = probabilities.gather(1, y[:, None])[:, 0]
        others = probabilities.clone()
        others[torch.arange(len(y)), y] = 0
        return others.max(1)[0] - own <= self.gap


@dataclass
class ResearchDART(ResearchMasked):
    """DART (Wang et al., ICML 2019): after a first step, while the first-order stationary condition is above `threshold`."""

    threshold: float

    @override
    def may_go_on(self, step: int, logits: Tensor, y: Tensor, delta: Tensor, gradient: Tensor) -> Tensor:
        if step == 0:
            return torch.ones_like(y, dtype=torch.bool)
        flat, moved = gradient.flatten(1), delta.flatten(1)
        return self.eps * flat.norm(p=1, dim=1) - (moved * flat).sum(1) > self.threshold


@dataclass
class ResearchGAIRAT(ResearchMasked):
    """GAIRAT (Zhang et al., ICLR 2021): nobody stops, but how long each image held out is counted, image by image.

    Args:
        shift: of the weights' tanh.
    """

    shift: float
    kappa: Tensor | None = None

    @override
    def step(self, batch: Minibatch) -> None:
        self.kappa = torch.zeros(len(batch.y))
        super().step(batch)

    @override
    def may_go_on(self, step: int, logits: Tensor, y: Tensor, delta: Tensor, gradient: Tensor) -> Tensor:
        assert self.kappa is not None
        right = logits.max(1)[1] == y
        for row in range(len(y)):
            self.kappa[row] += int(right[row].item())
        return torch.ones_like(right)

    @override
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        assert self.kappa is not None
        weight = (1 + torch.tanh(self.shift + 5 * (1 - 2 * self.kappa / self.steps))) / 2
        weight = (weight / weight.mean()).to(logits)
        return (F.cross_entropy(logits, y, reduction="none") * weight).mean()
