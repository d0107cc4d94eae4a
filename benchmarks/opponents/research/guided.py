"""GAT and NuAT: one step from +-eps / 2, guided in every second batch by the distance from the clean prediction."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script, into_box


@dataclass
class _Guided(Script):
    """What the two share. BatchNorm is in evaluation mode in the whole attack.

    The released clean forward in training mode before each attack is left out, as ours by default has none that counts.

    The attack's backward computes weight gradients, in a guided batch through the clean prediction too.

    Args:
        weight: of the distance, in the attack and in the loss.
        batches: seen so far; every second one is guided.
    """

    weight: float
    batches: int = 0

    @override
    def step(self, batch: Minibatch) -> None:
        x, y = batch.x, batch.y
        self.network.eval()
        delta = self._attack(x, y)
        self.network.train()
        adversarial = self.network(x + delta)
        clean = self.network(x)
        loss = F.cross_entropy(clean, y) + self.weight * self.distance(clean, adversarial)
        self.descend(loss, adversarial, y)
        self.batches += 1

    def _attack(self, x: Tensor, y: Tensor) -> Tensor:
        delta = into_box(x, self.draws.signs(x, self.eps / 2))
        delta.requires_grad = True
        logits = self.network(x + delta)
        value = F.cross_entropy(logits, y)
        if self.batches % 2 == 1:
            value = value + self.weight * self.distance(self.network(x), logits)
        value.backward()
        assert delta.grad is not None
        return self.moved(x, delta.detach(), self.eps * delta.grad.sign())

    @abstractmethod
    def distance(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        """Return the divergence of two predictions, logits (B, K): a mean over the batch."""


@dataclass
class ResearchGAT(_Guided):
    """GAT (Sriramanan et al., NeurIPS 2020): the squared distance of the probabilities."""

    @override
    def distance(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        return ((clean.softmax(1) - adversarial.softmax(1)) ** 2).sum(1).mean()


@dataclass
class ResearchNuAT(_Guided):
    """NuAT (Sriramanan et al., NeurIPS 2021): the nuclear norm of the differences of the logits."""

    @override
    def distance(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        return torch.norm(clean - adversarial, "nuc") / len(clean)
