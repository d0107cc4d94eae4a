"""FAT: PGD that leaves each image soon after it is misclassified."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script, into_box


@dataclass
class ResearchFAT(Script):
    """Friendly adversarial training (Zhang et al., ICML 2020), BatchNorm in evaluation mode in the attack.

    A Python loop over the images decides who goes on, so the host waits in every step; who does not leaves the batch, which
    makes the next steps cheaper. Every step computes weight gradients. The batch is trained on in the order of leaving.

    Args:
        alpha: step size, in pixel fractions.
        steps: most attack steps.
        tau: misclassified iterates that an image passes before it stops at the next.
    """

    alpha: float
    steps: int
    tau: int

    @override
    def step(self, batch: Minibatch) -> None:
        self.network.eval()
        x, y = self._attacked(batch.x, batch.y)
        self.network.train()
        logits = self.network(x)
        self.descend(F.cross_entropy(logits, y), logits, y)

    def _attacked(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the adversarial images and their labels, in the order of leaving."""
        delta = into_box(x, self.draws.uniform(x, self.eps))
        left = [self.tau] * len(x)
        done: list[tuple[Tensor, Tensor]] = []
        for _ in range(self.steps):
            delta.requires_grad = True
            logits = self.network(x + delta)
            F.cross_entropy(logits, y).backward()
            assert delta.grad is not None
            gradient, delta = delta.grad.detach(), delta.detach()
            wrong = logits.max(1)[1] != y
            stop = [row for row in range(len(x)) if wrong[row].item() and left[row] == 0]
            going = [row for row in range(len(x)) if row not in set(stop)]
            left = [left[row] - int(wrong[row].item()) for row in going]
            done.append((x[stop] + delta[stop], y[stop]))
            x, y, delta, gradient = x[going], y[going], delta[going], gradient[going]
            if not going:
                break
            delta = self.moved(x, delta, self.alpha * gradient.sign())
        done.append((x + delta, y))
        return torch.cat([images for images, _ in done]), torch.cat([labels for _, labels in done])
