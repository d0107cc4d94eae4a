"""CAT: a batch in shares, each attacked with one step more than the one before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script, into_box, wasteful_gradient


@dataclass
class ResearchCAT(Script):
    """Curriculum adversarial training (Cai et al., IJCAI 2018) at one level, BatchNorm in training mode throughout.

    Share by share, every attack step with weight gradients; the step's size comes from the host. Left out: rounding the
    network's input, and the evaluation between epochs that raises the level.

    Args:
        level: attack steps of the last share; the first stays as it is.
    """

    level: int

    @override
    def step(self, batch: Minibatch) -> None:
        share = len(batch.y) // (self.level + 1)
        factors = self.draws.fractions(batch.x, self.level + 1)
        shares = [batch.x[:share]]
        for steps in range(1, self.level + 1):
            part = slice(steps * share, (steps + 1) * share if steps < self.level else None)
            alpha = 2 * self.eps / steps * (1 + factors[steps] * (10 / steps - 1))  # of U(1, 10 / steps)
            shares.append(self._attacked(batch.x[part], batch.y[part], steps, alpha))
        logits = self.network(torch.cat(shares))
        self.descend(F.cross_entropy(logits, batch.y), logits, batch.y)

    def _attacked(self, x: Tensor, y: Tensor, steps: int, alpha: float) -> Tensor:
        """Return the adversarial images of a share."""
        delta = into_box(x, self.draws.uniform(x, self.eps))
        for _ in range(steps):
            gradient = wasteful_gradient(self.network, x, y, delta)
            delta = self.moved(x, delta.detach(), alpha * gradient.sign())
        return x + delta
