"""The training step of MAIR (Harry24k/MAIR), written plainly after what its trainers do; it is not in the package index.

All crafts go through an attack class in the manner of torchattacks: a call switches the network to evaluation mode, asks for
the pixels' gradient alone (`autograd.grad`), and switches back. Every cost is fetched after the step for a record.
Left out, in its favour: the record's progress lines, and its evaluation during training.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script

NOISE = 1e-3  # standard deviation of the start of TRADES's attack


@dataclass
class MairStep(Script):
    """What the trainers share: a cost of a batch, and one step of the optimizer down its mean.

    Args:
        alpha: the attack's step size, in pixel fractions.
        steps: number of attack steps.
        record: the last step's costs, by name.
    """

    alpha: float
    steps: int
    record: dict[str, float] = field(default_factory=dict)

    @override
    def step(self, batch: Minibatch) -> None:
        cost = self.cost(batch.x, batch.y)
        self.optimizer.zero_grad()
        cost.backward()
        self.optimizer.step()

    @abstractmethod
    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        """Return what is minimised, a batch mean; the network is in training mode."""

    def crafted(self, x: Tensor, start: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
        """Return adversarial images (B, C, H, W) of the highest objective of logits (B, K) -> (), by the attack class."""
        images = (x + start).clamp(0, 1)
        self.network.eval()
        for _ in range(self.steps):
            images.requires_grad = True
            (gradient,) = torch.autograd.grad(objective(self.network(images)), images)
            images = images.detach() + self.alpha * gradient.sign()
            images = (x + (images - x).clamp(-self.eps, self.eps)).clamp(0, 1)
        self.network.train()
        return images


@dataclass
class MairAT(MairStep):
    """`AT`: the mathematics of our AdversarialTraining with BatchNorm in evaluation mode in the attack."""

    @override
    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        images = self.crafted(x, self.draws.uniform(x, self.eps), lambda logits: F.cross_entropy(logits, y))
        cost = F.cross_entropy(self.network(images), y, reduction="none").mean()
        self.record = {"CALoss": cost.item()}
        return cost


@dataclass
class MairTRADES(MairStep):
    """`TRADES`. The clean prediction in training mode comes before the attack, which thus sees statistics it has moved.

    So the mathematics is not ours; nor is the start, which is clamped to the box.
    """

    beta: float = 6.0

    @override
    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        clean = self.network(x)
        natural = F.cross_entropy(clean, y)
        self.network.eval()
        fixed = self.network(x).detach().softmax(1)
        images = self.crafted(
            x,
            self.draws.normal(x, NOISE),
            lambda logits: F.kl_div(logits.log_softmax(1), fixed, reduction="sum"),
        )
        adversarial = self.network(images)
        divergence = F.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
        cost = natural + self.beta * divergence.mean()
        self.record = {"Loss": cost.item(), "CELoss": natural.item(), "KLLoss": divergence.mean().item()}
        return cost


@dataclass
class MairMART(MairStep):
    """`MART`: the mathematics of ours from a uniform start with the released constants, but for 1e-12 in two logarithms."""

    beta: float = 5.0

    @override
    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        images = self.crafted(x, self.draws.uniform(x, self.eps), lambda logits: F.cross_entropy(logits, y))
        clean, adversarial = self.network(x), self.network(images)
        probabilities, sure = adversarial.softmax(1), clean.softmax(1)
        likeliest = torch.argsort(probabilities, dim=1)[:, -2:]
        rival = torch.where(likeliest[:, -1] == y, likeliest[:, -2], likeliest[:, -1])
        boosted = F.cross_entropy(adversarial, y) + F.nll_loss(torch.log(1.0001 - probabilities + 1e-12), rival)
        divergence = F.kl_div(torch.log(probabilities + 1e-12), sure, reduction="none").sum(1)
        weighted = (divergence * (1.0000001 - sure.gather(1, y[:, None]).squeeze(1))).mean()
        cost = boosted + self.beta * weighted
        self.record = {"Loss": cost.item(), "BALoss": boosted.item(), "WKLoss": weighted.item()}
        return cost


@dataclass
class MairAWP(MairAT):
    """`AT` under the minimizer `AWP`, whose mathematics is not ours.

    The cost is taken anew at the perturbed weights, attack included; one length counts for all weights together, biases and
    norms too; both forwards of the loss move BatchNorm's statistics.

    Args:
        rho: size of the perturbation relative to the weights.
    """

    rho: float = 0.01

    @override
    def step(self, batch: Minibatch) -> None:
        self.cost(batch.x, batch.y).backward()
        shifts = self._ascend()
        self.cost(batch.x, batch.y).backward()
        with torch.no_grad():
            for weight, shift in zip(self.network.parameters(), shifts, strict=True):
                weight.sub_(shift)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def _ascend(self) -> list[Tensor]:
        """Move the weights up the cost; by how much, tensor by tensor."""
        weights = list(self.network.parameters())
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        length, norm = (
            torch.stack([t.norm() for t in tensors]).norm().item() + 1e-16 for tensors in (weights, gradients)
        )
        shifts = [gradient * (self.rho * length / norm) for gradient in gradients]
        for weight, shift in zip(weights, shifts, strict=True):
            weight.add_(shift)
        self.optimizer.zero_grad()
        return shifts
