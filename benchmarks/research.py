"""The usual research step, written plainly: what the scripts of the field's papers do in an iteration.

An opponent for `speed.py` that knows nothing of Sparring. The mathematics is that of our methods; the habits are the
scripts': `loss.backward()` inside the attack, which computes weight gradients and throws them away, tensors in NCHW and
float32, labels smoothed through NumPy, images cropped and flipped one by one, loss and accuracy fetched after every step.
Left out, in its favour: data loaders, prints, permutations of the whole training set between epochs, and the forwards
that PGD scripts spend on choosing among restarts and on logging the clean accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Crop = tuple[int, int, bool]  # top and left on the padded image, mirrored


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
class ResearchPGD:
    """PGD adversarial training (Madry et al., ICLR 2018); FGSM-RS (Wong et al., ICLR 2020) is the case of one step.

    Args:
        network: in training mode throughout, takes images (B, C, H, W) in [0, 1].
        optimizer: moves its weights.
        eps: radius in the maximum norm, in pixel fractions.
        alpha: step size, in pixel fractions.
        steps: number of attack steps.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    eps: float
    alpha: float
    steps: int
    log: Log = field(default_factory=Log)

    def step(self, x: Tensor, y: Tensor, start: Tensor | None = None) -> None:
        """Train on x (B, C, H, W) in [0, 1] with labels y (B,), from `start` (B, C, H, W) or a uniform draw."""
        delta = self.attack(x, y, torch.zeros_like(x).uniform_(-self.eps, self.eps) if start is None else start.clone())
        logits = self.network(x + delta)
        loss = F.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.log.add(loss, logits, y)

    def attack(self, x: Tensor, y: Tensor, delta: Tensor) -> Tensor:
        """The perturbation (B, C, H, W) after the last step."""
        delta = _into_box(x, delta)
        for _ in range(self.steps):
            delta.requires_grad = True
            F.cross_entropy(self.network(x + delta), y).backward()
            assert delta.grad is not None
            delta = (delta.detach() + self.alpha * delta.grad.sign()).clamp(-self.eps, self.eps)
            delta = _into_box(x, delta)
        return delta


@dataclass
class ResearchMEP:
    """FGSM-MEP (Jia et al., ECCV 2022) as released: see the card's section 3.3 for what differs from the paper.

    Perturbations and momenta of all samples are kept as each was last seen, cropped and mirrored.

    Args:
        network: in training mode throughout, takes images (B, C, H, W) in [0, 1].
        optimizer: moves its weights.
        images: the whole training set (N, C, H, W) in [0, 1].
        labels: (N,).
        pad: zeros around an image, out of which an image is cropped.
        eps: radius in the maximum norm and step size, in pixel fractions.
        classes: number of classes K.
        decay: of the momentum.
        weight: of the regulariser, a mean over batch and classes.
        kept: mass of the smoothed label that stays on the true class.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor
    pad: int
    eps: float
    classes: int
    decay: float = 0.3
    weight: float = 10.0
    kept: float = 0.6
    log: Log = field(default_factory=Log)
    all_delta: Tensor = field(init=False)  # (N, C, H, W)
    all_momentum: Tensor = field(init=False)  # (N, C, H, W)

    def __post_init__(self) -> None:
        noise = torch.zeros_like(self.images).uniform_(-self.eps, self.eps)
        self.all_delta = (self.eps * noise.sign()).clamp(-self.eps, self.eps)
        self.all_momentum = torch.zeros_like(self.images)
        self.canvases = F.pad(self.images, (self.pad,) * 4)

    def step(self, index: Tensor, crops: Sequence[Crop]) -> None:
        """Train on the samples `index` (B,), each seen through its crop."""
        x = self._augmented(self.canvases[index], crops)
        y, delta, momentum = self.labels[index], self.all_delta[index].clone(), self.all_momentum[index].clone()

        delta.requires_grad = True
        prior = self.network(x + delta)
        self._smoothed_loss(prior, y).backward(retain_graph=True)
        assert delta.grad is not None
        gradient, delta = delta.grad.detach(), delta.detach()

        momentum = gradient / torch.norm(gradient, p=1) + self.decay * momentum
        next_delta = self._moved(x, delta, momentum)
        logits = self.network(x + self._moved(x, delta, gradient))
        loss = self._smoothed_loss(logits, y) + self.weight * F.mse_loss(logits, prior)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

        self.all_delta[index] = next_delta
        self.all_momentum[index] = momentum
        self.log.add(loss, logits, y)

    def _moved(self, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
        return _into_box(x, (delta + self.eps * direction.sign()).clamp(-self.eps, self.eps))

    def _augmented(self, canvases: Tensor, crops: Sequence[Crop]) -> Tensor:
        """One image after the other: (B, C, H + 2 pad, W + 2 pad) -> (B, C, H, W)."""
        height, width = self.images.shape[2:]
        x = torch.empty((len(crops), *self.images.shape[1:]), dtype=canvases.dtype, device=canvases.device)
        for row, (top, left, mirrored) in enumerate(crops):
            image = canvases[row, :, top : top + height, left : left + width]
            x[row] = torch.flip(image, (2,)) if mirrored else image
        return x

    def _smoothed_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy with the mass `kept` on the true class and the rest spread over the others."""
        onehot = np.eye(self.classes)[y.cpu().numpy()]
        target = onehot * self.kept + (1 - onehot) * (1 - self.kept) / (self.classes - 1)
        q = torch.from_numpy(target).to(device=logits.device, dtype=logits.dtype)
        return (-q * F.log_softmax(logits, dim=1)).sum(1).mean()


def _into_box(x: Tensor, delta: Tensor) -> Tensor:
    """The perturbation that is left when x + delta is clamped to [0, 1]."""
    return torch.clamp(x + delta, 0, 1) - x
