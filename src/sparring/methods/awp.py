"""AWP: evaluate the loss where the weights, too, are at their worst nearby."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring import ranks
from sparring.attacks import frozen_statistics
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.methods.base import Perturbation, Phase, Task, Traits
from sparring.methods.wrapper import Layered, Wrapper, within


@dataclass
class AWP(Wrapper):
    """Adversarial weight perturbation around any method (Wu, Xia and Wang, NeurIPS 2020).

    v_l = gamma ||w_l|| g_l / ||g_l|| for every weight tensor with more than one dimension, g the gradient of the inner
    method's own loss; that loss is then descended at w + v. Biases and norms are never perturbed. Weight decay acts on w
    (the released code applies it to w + v).

    Args:
        inner: the method whose loss is taken at the perturbed weights.
        gamma: size of v_l relative to w_l; the paper uses 0.01 for AT and 0.005 for TRADES.
        warmup: epochs at the beginning without weight perturbation.

    Raises:
        BadInput: gamma that is not positive, or a negative warmup; in `setup`, an inner method whose one backward pass
            serves its attack too (Free).
    """

    gamma: float = 0.01
    warmup: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma <= 0:
            raise BadInput(f"AWP needs gamma > 0, not {self.gamma}: without weight perturbation use the inner method.")
        if self.warmup < 0:
            raise BadInput(f"AWP needs warmup >= 0 epochs, not {self.warmup}.")

    @override
    def traits(self) -> Traits:
        return replace(super().traits(), shifts_weights=True)

    @override
    def setup(self, task: Task) -> None:
        if self.inner.traits().one_pass:
            raise BadInput(
                f"AWP takes the loss at other weights, and {type(self.inner).__name__} takes its attack from the loss's own "
                "backward pass, which would then be of those weights: put AWP around a method that has an attack of its "
                "own, such as AdversarialTraining."
            )
        super().setup(task)

    @override
    def own_phase(self, epoch: int, step: int) -> bool:
        """Return whether the weights are perturbed in this epoch."""
        return epoch >= self.warmup

    @contextmanager
    def shifted_weights(
        self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Layered | None = None
    ) -> Iterator[None]:
        """Hold the weights at w + v inside, bit for bit at w again outside."""
        with super().shifted_weights(model, batch, perturbation, phase):
            if not (self.phase(0, 0) if phase is None else phase).own:
                yield
                return
            weights: list[Tensor] = [w for w in model.parameters() if w.requires_grad and w.ndim > 1]
            saved = [weight.detach().clone() for weight in weights]
            shift = self._shift(model, batch, perturbation, within(phase), weights)
            try:
                with torch.no_grad():
                    torch._foreach_add_(weights, shift)
                yield
            finally:
                with torch.no_grad():
                    torch._foreach_copy_(weights, saved)

    def _shift(
        self, model: nn.Module, batch: Batch, perturbation: Perturbation, inner: Phase, weights: list[Tensor]
    ) -> list[Tensor]:
        """Return v_l for each weight tensor; the running statistics of BatchNorm do not move."""
        with frozen_statistics(model):
            total = self.inner.loss(model, batch, perturbation, inner).total
            gradients = torch.autograd.grad(total, weights, materialize_grads=True)
        ranks.average_(gradients)  # the bare network's: no wrapper does it
        lengths = torch._foreach_norm(weights)
        scales = [
            self.gamma * length / (norm + 1e-20)
            for length, norm in zip(lengths, torch._foreach_norm(gradients), strict=True)
        ]
        return list(torch._foreach_mul(gradients, scales))
