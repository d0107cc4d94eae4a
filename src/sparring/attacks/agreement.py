"""Whether a faster form of a network answers as the network itself does: the logits, and their gradients to the pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.attacks.ascent import input_gradient
from sparring.randomness import repeatable

SEED = 0  # of networks that draw: both forms with the same numbers
_LOGITS = 1e-3  # of an image's spread of logits: rounding moves them far less
_GRADIENT, _KINKS = 1e-2, 0.1  # relative error of an image's gradient; the share of images that may stand at a kink


def same_logits(found: Tensor, expected: Tensor) -> bool:
    """Return whether logits (B, K) differ by no more than rounding, in proportion to each image's spread of logits."""
    if found.shape != expected.shape:
        return False
    spread = (expected.amax(1) - expected.amin(1)).clamp_min(torch.finfo(expected.dtype).tiny)
    return bool(((found - expected).abs().amax(1) <= _LOGITS * spread).all())


def same_gradients(found: Tensor, expected: Tensor) -> bool:
    """Return whether gradients (B, C, H, W) differ by no more than rounding, but for a few images at a kink.

    A network's gradients may be NaN; then a form's have to be NaN in the same places.
    """
    if bool((found.isnan() != expected.isnan()).any()):
        return False
    found, expected = found.nan_to_num(), expected.nan_to_num()
    size = expected.flatten(1).norm(dim=1).clamp_min(torch.finfo(expected.dtype).tiny)
    error = (found - expected).flatten(1).norm(dim=1) / size
    return bool((error > _GRADIENT).float().mean() <= _KINKS) and bool((error <= 0.5).all())


def answer(network: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of a fixed mixture of the logits, and the logits."""

    def mixture(logits: Tensor) -> Tensor:
        return (logits * torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype, device=logits.device)).sum(1)

    with repeatable(SEED, x.device):
        return input_gradient(network, x, mixture)
