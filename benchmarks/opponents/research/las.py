"""LAS-AT: PGD whose radius, steps and step size a policy network draws for each image."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script, into_box, smoothed_loss, wasteful_gradient

Strategy = dict[str, float]  # eps, steps and alpha of one image
OTHER_STEPS, OTHER_RESTARTS = 10, 2  # of the attack on the network one step ahead


@dataclass
class ResearchLAS(Script):
    """LAS-AT (Jia et al., CVPR 2022) as released, on the target's side and on the policy's.

    All images take as many attack steps as the one that takes most, finished ones masked, and every step computes weight
    gradients. Strategies come to the host image by image, and go back number by number. The policy's prediction for the
    target's step keeps its graph. An update of the policy copies the target and makes an optimizer for the copy.
    Left out: the second, never used list of likeliest strategies, an unused clean forward, and the clamp of the first reward
    to [0, 10].

    Args:
        policy: scores (B, actions) of images, the heads eps, steps and alpha side by side.
        policy_optimizer: moves its weights.
        tables: what each head chooses from.
        classes: number of classes K.
        kept: mass of the smoothed label that stays on the true class.
        interval: target steps between two of the policy's.
        weights: of the copy's robust and of its clean accuracy in the reward.
        clip: largest norm of the policy's gradient.
        iteration: steps so far.
    """

    policy: nn.Module
    policy_optimizer: torch.optim.Optimizer
    tables: Mapping[str, Sequence[float]]
    classes: int
    kept: float = 0.7
    interval: int = 20
    weights: tuple[float, float] = (4.0, 2.0)
    clip: float = 1.0
    iteration: int = 0

    @override
    def step(self, batch: Minibatch) -> None:
        x, y = batch.x, batch.y
        if self.iteration % self.interval == 0:
            self._reinforce(x, y)
        self.iteration += 1
        self.policy.eval()
        chosen = [self.draws.actions(scores) for scores in self._heads(x)]
        delta = self._attack(x, y, self._strategies(chosen))
        self.network.train()
        logits = self.network(x + delta)
        self.descend(smoothed_loss(logits, y, self.classes, self.kept), logits, y)

    def _heads(self, x: Tensor) -> Sequence[Tensor]:
        """Return the scores (B, n) of each head."""
        return torch.split(self.policy(x), [len(table) for table in self.tables.values()], dim=1)

    def _strategies(self, chosen: Sequence[Tensor]) -> list[Strategy]:
        """Return a strategy for each image, image by image: three copies to the host for each, and a dictionary."""
        heads = list(zip(self.tables.items(), chosen, strict=True))
        return [
            {head: table[int(actions[row].item())] for (head, table), actions in heads} for row in range(len(chosen[0]))
        ]

    def _attack(self, x: Tensor, y: Tensor, strategies: Sequence[Strategy]) -> Tensor:
        """Return the perturbations (B, C, H, W) under these strategies, BatchNorm in evaluation mode."""
        self.network.eval()
        eps, alpha, steps = (torch.zeros(len(x), 1, 1, 1, dtype=x.dtype, device=x.device) for _ in range(3))
        for row, strategy in enumerate(strategies):
            eps[row], alpha[row], steps[row] = strategy["eps"], strategy["alpha"], strategy["steps"]
        delta = into_box(x, self.draws.uniform(x, self.eps))
        for turn in range(int(max(strategy["steps"] for strategy in strategies))):
            gradient = wasteful_gradient(self.network, x, y, delta)
            going = (turn < steps).to(x.dtype)
            moved = delta.detach() + going * alpha * gradient.sign()
            delta = into_box(x, torch.max(torch.min(moved, eps), -eps))
        return delta

    def _reinforce(self, x: Tensor, y: Tensor) -> None:
        """Take one step of the policy up the reward of strategies drawn for this batch, one number for all of its images."""
        self.policy.train()
        heads = self._heads(x)
        chosen = [self.draws.actions(scores) for scores in heads]
        reward = self._reward(x, y, self._attack(x, y, self._strategies(chosen)))
        loss = torch.zeros((), device=x.device)
        for scores, actions in zip(heads, chosen, strict=True):
            log_probability = F.log_softmax(scores, dim=1).gather(1, actions[:, None]).squeeze(1)
            loss = loss - (log_probability * reward).mean()
        self.policy_optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), self.clip)
        self.policy_optimizer.step()

    def _reward(self, x: Tensor, y: Tensor, delta: Tensor) -> float:
        """Return how hard delta is for the network, and how accurate a copy is that has learnt from it."""
        with torch.no_grad():
            hardness = F.cross_entropy(self.network(x + delta), y).item()
        ahead = copy.deepcopy(self.network).train()
        group = self.optimizer.param_groups[0]
        optimizer = torch.optim.SGD(
            ahead.parameters(), lr=group["lr"], momentum=group["momentum"], weight_decay=group["weight_decay"]
        )
        optimizer.zero_grad()
        smoothed_loss(ahead(x + delta), y, self.classes, self.kept).backward()
        optimizer.step()
        other = self._other(ahead, x, y)
        ahead.eval()
        robust, clean = (_accuracy(ahead, images, y) for images in (x + other, x))
        return hardness + self.weights[0] * robust + self.weights[1] * clean

    def _other(self, ahead: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Run PGD on the copy, which is still in training mode; return each image's strongest of the restarts."""
        strongest, most = torch.zeros_like(x), torch.full_like(y, -torch.inf, dtype=x.dtype)
        for _ in range(OTHER_RESTARTS):
            delta = into_box(x, self.draws.uniform(x, self.eps))
            for _ in range(OTHER_STEPS):
                gradient = wasteful_gradient(ahead, x, y, delta)
                delta = self.moved(x, delta.detach(), self.eps / 4 * gradient.sign())
            with torch.no_grad():
                loss = F.cross_entropy(ahead(x + delta), y, reduction="none")
            strongest[loss >= most] = delta[loss >= most]
            most = torch.max(most, loss)
        return strongest


def _accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return (network(x).max(1)[1] == y).sum().item() / len(y)
