"""LBGAT: a clean teacher is trained beside the network, which learns the teacher's logits."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch
from benchmarks.opponents.research.trades import ResearchTRADES


@dataclass
class ResearchLBGAT(ResearchTRADES):
    """LBGAT without a divergence (Cui et al., ICCV 2021); the attack is TRADES's, the clean prediction anew in each step.

    Args:
        teacher: in training mode.
        teacher_optimizer: moves it.
    """

    teacher: nn.Module = field(kw_only=True)
    teacher_optimizer: torch.optim.Optimizer = field(kw_only=True)

    @override
    def step(self, batch: Minibatch) -> None:
        x, y = batch.x, batch.y
        self.network.eval()
        delta = self.attack(x)
        self.network.train()
        adversarial = self.network(x + delta)
        with torch.no_grad():  # for BatchNorm's statistics alone
            self.network(x)
        taught = self.teacher(x)
        self.teacher_optimizer.zero_grad()
        self.descend(F.mse_loss(adversarial, taught) + F.cross_entropy(taught, y), adversarial, y)
        self.teacher_optimizer.step()
