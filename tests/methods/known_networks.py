"""Networks whose answers and gradients are known, for tests that compare with results by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sparring.data import Batch
from tests.methods.reference import batches


class Table(nn.Module):
    """Answers with given logits, in turn."""

    def __init__(self, *answers: Tensor) -> None:
        super().__init__()
        self.answers = list(answers)

    def forward(self, x: Tensor) -> Tensor:
        return self.answers.pop(0)


class Linear(nn.Module):
    """Two classes, logits (-s, s) / 2 of s = sum(x) + shift: a known gradient, and any confidence."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, x: Tensor) -> Tensor:
        s = x.sum((1, 2, 3)) + self.shift
        return torch.stack([-s, s], 1) / 2


def middle(label: int = 1) -> Batch:
    """Images of one grey, where the box does not bind."""
    batch = batches()[0]
    return replace(batch, x=torch.full_like(batch.x, 0.5), y=torch.full_like(batch.y, label))
