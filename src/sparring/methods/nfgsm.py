"""N-FGSM: one-step adversarial training around noise that is larger than the ball, without clipping to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks import BatchNormMode, attackable, input_gradient
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.methods.base import Loss, Method, Perturbation, Phase, Task
from sparring.threat import Budget, Ratio, Threat, box, check_step, per_sample, step_size


@dataclass
class NFGSM(Method):
    """Train on noise plus one step from it, which may leave the ball (de Jorge et al., NeurIPS 2022).

    eta ~ U(-k eps, k eps),   delta = eta + alpha sign(grad_x CE(f(x + eta), y)),   min_w CE(f(x + delta), y)

    The paper's formula has no clipping of any kind. Its released code keeps x + eta and x + delta in the pixel box, never in
    the ball of radius eps, and so does `box`. In another norm than Linf the noise is uniform in that norm's ball.

    Args:
        noise: k, the noise's radius in radii of the threat, at least 0; 2 in the paper's experiments on CIFAR.
        alpha: step size; None is eps, the paper's.
        smoothing: PyTorch's label smoothing in the outer loss; the step ascends the unsmoothed one.
        box: keep the noisy and the perturbed image in [0, 1], as the released code; False: as the formula.
        bn: BatchNorm in the attack's forward; `train` in the released code.

    Raises:
        BadInput: noise that is negative or not finite, or a step size that is not positive.
    """

    noise: float = 2.0
    alpha: Ratio | None = None
    smoothing: float = 0.0
    box: bool = True
    bn: BatchNormMode = "train"
    _threat: Threat = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise < math.inf:
            raise BadInput(f"The noise of N-FGSM is a number of radii, at least 0, not {self.noise}: write 2.")
        self.alpha = step_size(self.alpha)

    @override
    def setup(self, task: Task) -> None:
        check_step(self.alpha, task.threat)
        self._threat = task.threat

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        """Take one step of size alpha from noise; a budget's steps do not apply to a one-step method."""
        eps: float | Tensor = self._threat.eps
        alpha: float | Tensor = self._threat.eps if self.alpha is None else self.alpha
        if budget is not None:
            eps, alpha = budget.eps if budget.start is None else budget.start, budget.alpha
        eta = self._boxed(batch.x, self._threat.draw(batch.x, self.noise * eps))
        with attackable(model, self.bn):
            gradient, _ = input_gradient(model, batch.x + eta, partial(cross_entropy, y=batch.y))
        delta = eta + per_sample(alpha, eta) * self._threat.steepest(gradient)
        return Perturbation(self._boxed(batch.x, delta), eta)

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Return CE(f(x + delta), y), label-smoothed."""
        logits = model(batch.x + perturbation.delta)
        return Loss(cross_entropy(logits, batch.y, self.smoothing).mean(), logits)

    def _boxed(self, x: Tensor, delta: Tensor) -> Tensor:
        return box(x, delta) if self.box else delta
