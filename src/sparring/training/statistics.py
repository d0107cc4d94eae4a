"""Sums over an epoch, kept on the device: a step adds to them without a wait, the host reads them once, at the end."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparring.methods.base import Loss, Perturbation
from sparring.threat import Threat
from sparring.training.run import Row

_OF_IMAGES = ("delta_l2", "start_l2", "move_l2", "delta_saturated", "delta_zero")
_NEAR = 1e-3  # of eps: what counts as at the radius, and as at zero, in spite of rounding


class EpochStatistics:
    """How well the network did on its training examples."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # samples, their losses, correct ones

    def add(self, loss: Loss, y: Tensor) -> None:
        """Count a batch."""
        correct = (loss.logits.detach().argmax(1) == y).sum()
        self.sums += torch.stack([torch.full_like(correct, len(y)), loss.total.detach() * len(y), correct])

    def row(self, epoch: int) -> Row:
        """Return the epoch's mean loss and the accuracy on its training examples, as the method saw them."""
        samples, losses, correct = self.sums.tolist()
        return {"epoch": float(epoch), "train_loss": losses / samples, "train_accuracy": correct / samples}


class StepStatistics:
    """How large perturbations and gradients were in the measured steps of an epoch."""

    def __init__(self, threat: Threat, device: torch.device) -> None:
        self._threat = threat
        # images, a sum over them for each name, steps, squared gradient norms
        self.sums = torch.zeros(len(_OF_IMAGES) + 3, dtype=torch.float64, device=device)

    def add(self, perturbation: Perturbation, gradient_norm: Tensor) -> None:
        """Count a step: what its images were perturbed by, and the norm of the gradient that moved the weights."""
        self.sums[0] += len(perturbation.delta)
        self.sums[1:-2] += self._of_images(perturbation).double().sum(1)
        self.sums[-2] += 1
        self.sums[-1] += gradient_norm.double().square()

    def row(self) -> Row:
        """Return means over the images of those steps, and over the steps; raises ZeroDivisionError if there was none."""
        images, *sums, steps, squares = self.sums.tolist()
        means = {name: total / images for name, total in zip(_OF_IMAGES, sums, strict=True)}
        return means | {"gradient_square": squares / steps}

    def _of_images(self, perturbation: Perturbation) -> Tensor:
        """Return (names, B); NaN where a method has no start, and where the norm is not one of single components."""
        delta, start, eps = perturbation.delta, perturbation.start, float(self._threat.eps)
        length, size = _length(delta), delta.abs().flatten(1)
        absent = torch.full_like(length, math.nan)
        saturated = (
            (size >= eps * (1 - _NEAR)).to(length.dtype).mean(1) if self._threat.geometry.bounds_numbers else absent
        )
        zero = (size < eps * _NEAR).to(length.dtype).mean(1)
        begun = (absent, absent) if start is None else (_length(start), _length(delta - start))
        return torch.stack([length, *begun, saturated, zero])


def _length(delta: Tensor) -> Tensor:
    """Return the Euclidean norms (B,) of (B, C, H, W)."""
    return delta.flatten(1).norm(dim=1)
