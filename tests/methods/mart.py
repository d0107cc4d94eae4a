"""MART's card, transcribed in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.data import Batch
from sparring.methods import MART
from tests.methods.reference import CLASSES, EPS, Plain, divergence, linf_pgd, smoothed_cross_entropy


def mart() -> MART:
    return MART(PGD(steps=3, alpha=0.06, start="normal", bn="eval"))


def mart_example(plain: Plain, batch: Batch) -> Tensor:
    """Climb CE from x + 1e-3 N(0, 1), unclipped."""
    noise = 1e-3 * torch.randn(batch.x.shape)
    with plain.mode("eval"):
        return linf_pgd(plain.network, batch.x, noise, lambda z: smoothed_cross_entropy(z, batch.y).sum(), EPS, 0.06, 3)


def mart_terms(model: nn.Module, batch: Batch, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The adversarial logits; BCE; KL(p || q) (1 - p_y)."""
    clean, adversarial = model(batch.x), model(x_adv)
    p, q = clean.softmax(1), adversarial.softmax(1)
    images = torch.arange(len(batch.y))
    rival = torch.stack([max(q[i, k] for k in range(CLASSES) if k != batch.y[i]) for i in images])
    boosted = -q[images, batch.y].log() - (1 - rival).log()
    return adversarial, boosted.mean(), (divergence(clean, adversarial) * (1 - p[images, batch.y])).mean()


def mart_loss(model: nn.Module, batch: Batch, x_adv: Tensor) -> Tensor:
    _, boosted, gap = mart_terms(model, batch, x_adv)
    return boosted + 5 * gap
