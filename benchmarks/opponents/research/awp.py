"""AT-AWP: PGD adversarial training at weights that a proxy network has moved to where the loss is higher."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from benchmarks.opponents.research.empirical import ResearchPGD
from benchmarks.opponents.research.habits import Minibatch

PROXY_RATE = 0.01  # cancels, up to rounding


@dataclass
class ResearchAWP(ResearchPGD):
    """Adversarial weight perturbation (Wu et al., NeurIPS 2020) around PGD.

    Every step copies all tensors of the network into the proxy, lets the proxy go one step up the loss, and scales the
    difference of the two, weight tensor by weight tensor. The perturbation is taken off before the optimizer's step, so that
    weight decay is of the weights themselves (the released code does it afterwards).

    Args:
        gamma: size of the perturbation relative to each weight tensor.
    """

    gamma: float = 0.01
    proxy: nn.Module = field(init=False)
    proxy_optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.proxy = copy.deepcopy(self.network)
        self.proxy_optimizer = torch.optim.SGD(self.proxy.parameters(), lr=PROXY_RATE)

    @override
    def step(self, batch: Minibatch) -> None:
        x, y = batch.x, batch.y
        x = x + self.attack(x, y)
        difference = self._difference(x, y)
        self._add(difference, self.gamma)
        logits = self.network(x)
        loss = F.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        loss.backward()
        self._add(difference, -self.gamma)
        self.optimizer.step()
        self.log.add(loss, logits, y)

    def _difference(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return by name the proxy's way up the loss, scaled to the norm of the weight tensor."""
        self.proxy.load_state_dict(self.network.state_dict())
        self.proxy.train()
        loss = -F.cross_entropy(self.proxy(x), y)
        self.proxy_optimizer.zero_grad()
        loss.backward()
        self.proxy_optimizer.step()
        found = {}
        before, after = self.network.state_dict(), self.proxy.state_dict()
        for name, old in before.items():
            if old.dim() > 1 and "weight" in name:
                way = after[name] - old
                found[name] = old.norm() / (way.norm() + 1e-20) * way
        return found

    def _add(self, difference: dict[str, Tensor], share: float) -> None:
        with torch.no_grad():
            for name, weight in self.network.named_parameters():
                if name in difference:
                    weight.add_(share * difference[name])
