"""FGSM-GA: one-step training kept from catastrophic overfitting by input gradients that agree inside the ball."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from sparring import ranks
from sparring.attacks import BatchNormMode, attackable, input_gradient
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.methods.base import Loss, Method, Perturbation, Phase, Task, Traits
from sparring.threat import Budget, Ratio, Threat, check_step, per_sample, step_size


@dataclass(frozen=True)
class AlignedPerturbation(Perturbation):
    """FGSM's perturbation and the two places whose gradients are to agree."""

    gradient: Tensor = field(kw_only=True)  # (B, C, H, W), of the loss at x
    probe: Tensor = field(kw_only=True)  # (B, C, H, W), drawn uniformly from the ball


@dataclass
class GradAlign(Method):
    """FGSM-AT with a penalty on gradients that turn inside the ball (Andriushchenko and Flammarion, NeurIPS 2020).

    CE(f(x + delta), y) + weight (1 - cos(g(x), g(x + eta))), eta uniform in the ball, g the gradient of CE with respect to
    the pixels. g(x) is FGSM's own and a constant: only g(x + eta) is differentiated again. Images of which either gradient
    vanishes are left out of the mean.

    Args:
        weight: lambda, at least 0; with 0 this is FGSM-AT, and no probe is shown to the network.
        alpha: FGSM's step size from the image itself; None is eps.
        bn: BatchNorm in the attack's forward.
        halves_edges: halve g(x) in the cosine at pixels of exactly 0 and 1, as the released code does, which differentiates
            through max and min.

    Raises:
        BadInput: a negative weight, or a step size that is not positive.
    """

    weight: float = 0.2
    alpha: Ratio | None = None
    bn: BatchNormMode = "train"
    halves_edges: bool = False
    _threat: Threat = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight < 0:
            raise BadInput(f"GradAlign needs a weight of at least 0, not {self.weight}.")
        self.alpha = step_size(self.alpha)

    @override
    def traits(self) -> Traits:
        return Traits(double_backward=True)

    @override
    def setup(self, task: Task) -> None:
        check_step(self.alpha, task.threat)
        self._threat = task.threat

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> AlignedPerturbation:
        """Take one step of size alpha from the image."""
        eps: float | Tensor = budget.eps if budget else self._threat.eps
        alpha: float | Tensor = budget.alpha if budget else (self._threat.eps if self.alpha is None else self.alpha)
        x = batch.x
        with attackable(model, self.bn):
            gradient, _ = input_gradient(model, x, partial(cross_entropy, y=batch.y))
        delta = self._threat.confine(x, per_sample(alpha, x) * self._threat.steepest(gradient), eps)
        probe = self._threat.draw(x, eps)
        if self.halves_edges:
            gradient = torch.where((x == 0) | (x == 1), gradient / 2, gradient)
        return AlignedPerturbation(delta, torch.zeros_like(x), gradient=gradient, probe=probe)

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Return the penalised loss above."""
        assert isinstance(perturbation, AlignedPerturbation)
        logits = model(batch.x + perturbation.delta)
        adversarial = cross_entropy(logits, batch.y).mean()
        if self.weight == 0:
            return Loss(adversarial, logits)
        point = (batch.x + perturbation.probe).requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(point), batch.y).sum(), point, create_graph=True)
        misaligned = _misalignment(perturbation.gradient, gradient)
        terms = {"adversarial": adversarial.detach(), "misaligned": misaligned.detach()}
        return Loss(adversarial + self.weight * misaligned, logits, terms)


def _misalignment(fixed: Tensor, gradient: Tensor) -> Tensor:
    """Return the mean of 1 - cos over the images, of all ranks, of which neither gradient (B, C, H, W) vanishes, ()."""
    fixed, gradient = fixed.flatten(1), gradient.flatten(1)
    # Before the cosine, which has no derivative at zero.
    present = fixed.any(1) & gradient.detach().any(1)
    fixed, gradient = (torch.where(present[:, None], value, 1.0) for value in (fixed, gradient))
    cosine = F.cosine_similarity(_unit(fixed), _unit(gradient), dim=1)
    counted = ranks.total(present.sum()) / ranks.count()
    return ((1 - cosine) * present).sum() / counted.clamp_min(1 / ranks.count())


def _unit(gradient: Tensor) -> Tensor:
    """Scale to a largest magnitude of 1, as the squares of a confident network's gradients vanish in float32."""
    return gradient / gradient.detach().abs().amax(1, keepdim=True)
