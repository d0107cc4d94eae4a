"""Networks that hide their gradients, made attackable: wrappers that every attack sees through (BPDA, EOT)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring.errors import BadInput


class BPDA(nn.Module):
    """A transformation with another's gradient: backward pass differentiable approximation (Athalye et al., ICML 2018).

    For steps before a network that have no useful gradient, such as rounding or compression: attack
    `nn.Sequential(BPDA(rounding), network)`. Sparring's own models round their input with such gradients already
    (`model.levels`).

    Args:
        transform: what is computed: images (B, C, H, W) -> a tensor.
        substitute: a differentiable function near it, of the same shape, whose gradient is used; None is the identity.

    Raises:
        BadInput: when called, if the two differ in shape.
    """

    def __init__(
        self, transform: Callable[[Tensor], Tensor], substitute: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.transform, self.substitute = transform, substitute

    def forward(self, x: Tensor) -> Tensor:
        """Return transform(x), with the gradient of substitute(x)."""
        with torch.no_grad():
            value = self.transform(x)
        near = x if self.substitute is None else self.substitute(x)
        if near.shape != value.shape:
            raise BadInput(
                f"The transformation returns the shape {tuple(value.shape)}, its substitute {tuple(near.shape)}: "
                "give a substitute of the same shape."
            )
        return value + (near - near.detach())  # the difference is exactly zero and has the gradient of `near`


class EOT(nn.Module):
    """A randomised network's mean logits: expectation over transformation (Athalye et al., ICML 2018).

    Any attack on it ascends the objective of the mean logits, and counts an image as fooled where these are wrong.
    AutoAttack's "rand" version averages the gradients of the loss of each draw instead, and evaluates a single draw. The
    network takes its random numbers where it likes, so an image's result depends on what else is attacked with it.

    Args:
        model: a network that draws anew in every forward pass, also in evaluation mode.
        samples: forward passes to average, at least 1; AutoAttack takes 20.

    Raises:
        BadInput: fewer than 1 sample.
    """

    def __init__(self, model: nn.Module, samples: int) -> None:
        super().__init__()
        if samples < 1:
            raise BadInput(f"EOT needs at least 1 sample, not {samples}.")
        self.model, self.samples = model, samples

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits (B, K) of images (B, C, H, W)."""
        return torch.stack([self.model(x) for _ in range(self.samples)]).mean(0)
