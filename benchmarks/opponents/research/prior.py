"""FGSM-PGI, that is FGSM-BP, FGSM-EP and FGSM-MEP: one step from a perturbation that the script has kept.

Written as the released FGSM-MEP, the only one of the three whose code was published. Images are cropped and mirrored one by
one out of the whole training set, which lives on the device. The start's backward computes weight gradients.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmarks.opponents.research.habits import Minibatch, Script, smoothed_loss


@dataclass
class _Prior(Script):
    """What the three share (Jia et al., ECCV 2022): the step, and the regulariser between start and perturbed image.

    Args:
        images: the whole training set (N, C, H, W) in [0, 1].
        labels: (N,).
        pad: zeros around an image, out of which an image is cropped.
        classes: number of classes K.
        weight: of the regulariser, a mean over batch and classes.
        kept: mass of the smoothed label that stays on the true class.
    """

    images: Tensor
    labels: Tensor
    pad: int
    classes: int
    weight: float = 10.0
    kept: float = 0.6
    canvases: Tensor = field(init=False)  # (N, C, H + 2 pad, W + 2 pad)

    def __post_init__(self) -> None:
        self.canvases = F.pad(self.images, (self.pad,) * 4)

    @override
    def step(self, batch: Minibatch) -> None:
        index, y = batch.index, self.labels[batch.index]
        x = self._augmented(batch)
        delta = self.recall(index)
        delta.requires_grad = True
        prior = self.network(x + delta)
        smoothed_loss(prior, y, self.classes, self.kept).backward(retain_graph=True)
        assert delta.grad is not None
        gradient, delta = delta.grad.detach(), delta.detach()

        final = self.moved(x, delta, self.eps * gradient.sign())
        self.remember(x, index, delta, gradient, final)
        logits = self.network(x + final)
        loss = smoothed_loss(logits, y, self.classes, self.kept) + self.weight * F.mse_loss(logits, prior)
        self.descend(loss, logits, y)

    @abstractmethod
    def recall(self, index: Tensor) -> Tensor:
        """Return a copy of the perturbations (B, C, H, W) that the samples start from."""

    @abstractmethod
    def remember(self, x: Tensor, index: Tensor, delta: Tensor, gradient: Tensor, final: Tensor) -> None:
        """Keep what the next start is made of: all (B, C, H, W)."""

    def noise(self, like: Tensor) -> Tensor:
        """Return what an empty memory holds: +-eps."""
        return (self.eps * torch.zeros_like(like).uniform_(-self.eps, self.eps).sign()).clamp(-self.eps, self.eps)

    def _augmented(self, batch: Minibatch) -> Tensor:
        """Return the samples' images, one after the other: (B, C, H, W)."""
        canvases = self.canvases[batch.index]
        height, width = self.images.shape[2:]
        x = torch.empty((len(canvases), *self.images.shape[1:]), dtype=canvases.dtype, device=canvases.device)
        for row, (top, left, mirrored) in enumerate(batch.crops):
            image = canvases[row, :, top : top + height, left : left + width]
            x[row] = torch.flip(image, (2,)) if mirrored else image
        return x


@dataclass
class ResearchBP(_Prior):
    """FGSM-BP: the previous batch's perturbations, image by position."""

    batch_size: int = field(kw_only=True)
    last_delta: Tensor = field(init=False)  # (batch size, C, H, W)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.last_delta = self.noise(self.images[: self.batch_size])

    @override
    def recall(self, index: Tensor) -> Tensor:
        return self.last_delta[: len(index)].clone()

    @override
    def remember(self, x: Tensor, index: Tensor, delta: Tensor, gradient: Tensor, final: Tensor) -> None:
        self.last_delta[: len(index)] = final


@dataclass
class ResearchEP(_Prior):
    """FGSM-EP: each sample's perturbation of the last epoch, as it was last seen, cropped and mirrored."""

    all_delta: Tensor = field(init=False)  # (N, C, H, W)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.all_delta = self.noise(self.images)

    @override
    def recall(self, index: Tensor) -> Tensor:
        return self.all_delta[index].clone()

    @override
    def remember(self, x: Tensor, index: Tensor, delta: Tensor, gradient: Tensor, final: Tensor) -> None:
        self.all_delta[index] = final


@dataclass
class ResearchMEP(ResearchEP):
    """FGSM-MEP: the same, moved along a momentum of gradients.

    Args:
        decay: of the momentum.
    """

    decay: float = 0.3
    all_momentum: Tensor = field(init=False)  # (N, C, H, W)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.all_momentum = torch.zeros_like(self.images)

    @override
    def remember(self, x: Tensor, index: Tensor, delta: Tensor, gradient: Tensor, final: Tensor) -> None:
        momentum = gradient / torch.norm(gradient, p=1) + self.decay * self.all_momentum[index]
        self.all_delta[index] = self.moved(x, delta, self.eps * momentum.sign())
        self.all_momentum[index] = momentum
