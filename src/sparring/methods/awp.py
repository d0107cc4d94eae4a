"""AWP: evaluate the loss where the weights, too, are at their worst nearby."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring import ranks
from sparring.attacks import frozen_statistics
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.methods.base import Perturbation, Task, Wrapper


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
    _perturbs: bool = field(init=False, repr=False, compare=False, default=True)  # in this epoch

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise BadInput(f"AWP needs gamma > 0, not {self.gamma}: without weight perturbation use the inner method.")
        if self.warmup < 0:
            raise BadInput(f"AWP needs warmup >= 0 epochs, not {self.warmup}.")

    def setup(self, task: Task) -> None:
        """See `Method`."""
        if self.inner.one_pass:
            raise BadInput(
                f"AWP takes the loss at other weights, and {type(self.inner).__name__} takes its attack from the loss's own "
                "backward pass, which would then be of those weights: put AWP around a method that has an attack of its "
                "own, such as AdversarialTraining."
            )
        super().setup(task)

    def begin_epoch(self, epoch: int) -> None:
        """See `Method`."""
        self._perturbs = epoch >= self.warmup
        super().begin_epoch(epoch)

    @contextmanager
    def shifted_weights(self, model: nn.Module, batch: Batch, perturbation: Perturbation) -> Iterator[None]:
        """The weights w + v inside, bit for bit w again outside."""
        with super().shifted_weights(model, batch, perturbation):
            if not self._perturbs:
                yield
                return
            weights: list[Tensor] = [w for w in model.parameters() if w.requires_grad and w.ndim > 1]
            saved = [weight.detach().clone() for weight in weights]
            shift = self._shift(model, batch, perturbation, weights)
            try:
                with torch.no_grad():
                    torch._foreach_add_(weights, shift)
                yield
            finally:
                with torch.no_grad():
                    torch._foreach_copy_(weights, saved)

    def _shift(self, model: nn.Module, batch: Batch, perturbation: Perturbation, weights: list[Tensor]) -> list[Tensor]:
        """v_l for each weight tensor; the running statistics of BatchNorm do not move."""
        with frozen_statistics(model):
            total = self.inner.loss(model, batch, perturbation).total
            gradients = torch.autograd.grad(total, weights, materialize_grads=True)
        ranks.average_(gradients)  # the bare network's: no wrapper does it
        lengths = torch._foreach_norm(weights)
        scales = [
            self.gamma * length / (norm + 1e-20)
            for length, norm in zip(lengths, torch._foreach_norm(gradients), strict=True)
        ]
        return list(torch._foreach_mul(gradients, scales))
