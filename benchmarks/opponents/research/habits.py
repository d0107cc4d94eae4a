"""What all scripts share: a network and its optimizer, what a loader hands over, random draws, the log of an epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical

Crop = tuple[int, int, bool]  # top and left on the padded image, mirrored


@dataclass(frozen=True)
class Minibatch:
    """Samples of a training set; a script that keeps the whole set itself needs only the last two."""

    x: Tensor  # (B, C, H, W) in [0, 1], cropped and mirrored
    y: Tensor  # (B,)
    index: Tensor  # (B,), which samples these are
    crops: Sequence[Crop]  # what x shows of each


class Draws:
    """Random numbers as scripts draw them. Where two sides must draw alike, this is what is handed over."""

    def uniform(self, like: Tensor, radius: float) -> Tensor:
        """Return draws from U[-radius, radius], like images (B, C, H, W)."""
        return torch.zeros_like(like).uniform_(-radius, radius)

    def normal(self, like: Tensor, deviation: float) -> Tensor:
        """Return draws from N(0, deviation^2), like images (B, C, H, W)."""
        return deviation * torch.randn_like(like)

    def signs(self, like: Tensor, size: float) -> Tensor:
        """Return draws of +size or -size, like images (B, C, H, W)."""
        return size * torch.zeros_like(like).uniform_(-1, 1).sign()

    def fractions(self, like: Tensor, count: int) -> list[float]:
        """Return so many draws from U[0, 1), on the host, made with the precision and device of `like`."""
        return torch.rand(count, dtype=like.dtype, device=like.device).tolist()

    def actions(self, scores: Tensor) -> Tensor:
        """Return one of n actions (B,) by unnormalised log-probabilities (B, n)."""
        return Categorical(logits=scores).sample()


@dataclass
class Log:
    """Sums over an epoch, on the host."""

    samples: int = 0
    loss: float = 0.0
    correct: int = 0

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Count a batch; the host waits for the device here."""
        self.samples += len(y)
        self.loss += loss.item() * len(y)
        self.correct += int((logits.max(1)[1] == y).sum().item())


@dataclass
class Script(ABC):
    """A training script between two batches.

    Args:
        network: in training mode between steps, takes images (B, C, H, W) in [0, 1].
        optimizer: moves its weights.
        eps: radius in the maximum norm, in pixel fractions.
        draws: where random numbers come from.
        log: of the epoch.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    eps: float
    draws: Draws = field(default_factory=Draws, kw_only=True)
    log: Log = field(default_factory=Log, kw_only=True)

    @abstractmethod
    def step(self, batch: Minibatch) -> None:
        """Attack and train on a batch."""

    def descend(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Take one step of the optimizer; drop what earlier backward passes left in the weights' gradients."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.log.add(loss, logits, y)

    def moved(self, x: Tensor, delta: Tensor, step: Tensor) -> Tensor:
        """Return delta + step (B, C, H, W), clipped to the ball and the box."""
        return into_box(x, (delta + step).clamp(-self.eps, self.eps))


def into_box(x: Tensor, delta: Tensor) -> Tensor:
    """Return the perturbation that is left when x + delta is clamped to [0, 1]."""
    return torch.clamp(x + delta, 0, 1) - x


def wasteful_gradient(network: nn.Module, x: Tensor, y: Tensor, delta: Tensor) -> Tensor:
    """Return the gradient of the batch's cross-entropy to delta (B, C, H, W); the weights' gradients come along with it."""
    delta.requires_grad = True
    F.cross_entropy(network(x + delta), y).backward()
    assert delta.grad is not None
    return delta.grad.detach()


def smoothed_loss(logits: Tensor, y: Tensor, classes: int, kept: float) -> Tensor:
    """Return the cross-entropy with the mass `kept` on the true class and the rest on the others; on the host."""
    onehot = np.eye(classes)[y.cpu().numpy()]
    target = onehot * kept + (1 - onehot) * (1 - kept) / (classes - 1)
    q = torch.from_numpy(target).to(device=logits.device, dtype=logits.dtype)
    return (-q * F.log_softmax(logits, dim=1)).sum(1).mean()
