"""Free-AT: every batch replayed, each backward serving weights and pixels. There is little here to waste."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script


@dataclass
class ResearchFree(Script):
    """Free-AT (Shafahi et al., NeurIPS 2019) as Wong et al. released it; loss and accuracy are fetched in every replay.

    Args:
        delta: (batch size, C, H, W), what the last step ended with, image by position.
        replays: of each batch.
    """

    delta: Tensor = field(kw_only=True)
    replays: int = 8

    @override
    def step(self, batch: Minibatch) -> None:
        x, y = batch.x, batch.y
        self.delta.requires_grad_()
        for _ in range(self.replays):
            logits = self.network(x + self.delta[: len(x)])
            self.descend(F.cross_entropy(logits, y), logits, y)
            assert self.delta.grad is not None
            step = self.eps * self.delta.grad[: len(x)].sign()
            with torch.no_grad():
                self.delta[: len(x)] = self.moved(x, self.delta[: len(x)], step)
            self.delta.grad.zero_()
