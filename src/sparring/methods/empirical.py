"""Training on the images themselves, and training on what an attack makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import nn
from typing_extensions import override

from sparring.attacks import PGD, attackable
from sparring.data.batch import Batch
from sparring.losses import cross_entropy
from sparring.methods.base import Loss, Method, Perturbation, Phase, Task, Traits
from sparring.threat import Budget, Threat


@dataclass
class Standard(Method):
    """Empirical risk minimisation on clean images: the baseline that no attack should leave standing.

    Args:
        smoothing: PyTorch's label smoothing.
    """

    smoothing: float = 0.0

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        """Return no perturbation."""
        return Perturbation(torch.zeros_like(batch.x))

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Return CE(f(x), y)."""
        logits = model(batch.x)
        return Loss(cross_entropy(logits, batch.y, self.smoothing).mean(), logits)


@dataclass
class Attacked(Method):
    """A method that trains on what an attack on the cross-entropy finds; its loss is its own.

    Args:
        attack: how the training examples are found; it ascends the unsmoothed loss.
    """

    attack: PGD = field(default_factory=PGD)
    _threat: Threat = field(init=False, repr=False, compare=False)

    @override
    def traits(self) -> Traits:
        return Traits(attack=self.attack, accepts_budget=True)

    @override
    def setup(self, task: Task) -> None:
        self._threat = task.threat

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        """Solve max_delta CE(f(x + delta), y) by projected gradient ascent."""
        start = self.attack.initial(batch.x, self._threat, budget)
        objective = self.attack.objective_for(batch.y)
        delta = self.attack.run(model, batch.x, objective, self._threat, budget=budget, start=start)
        return Perturbation(delta, start)


@dataclass
class AdversarialTraining(Attacked):
    """Minimise the loss on adversarial examples (Madry et al., ICLR 2018).

    The attack makes it FGSM-AT (one step of eps from zero; Goodfellow et al., ICLR 2015), FGSM-RS (one step of 1.25 eps
    from a uniform start; Wong et al., ICLR 2020) or PGD-n-AT (n steps).

    Args:
        attack: see `Attacked`.
        smoothing: PyTorch's label smoothing in the outer loss.
        extra_forwards: make two more forward passes a step, as Rice et al. and AT-AWP released it, which change nothing but
            BatchNorm's running statistics: of the adversarial images after the attack, to choose among its restarts even
            where there is one, and of the clean images after the step, to print an accuracy.
    """

    attack: PGD = field(default_factory=lambda: PGD(bn="train"))
    smoothing: float = 0.0
    extra_forwards: bool = False

    @override
    def traits(self) -> Traits:
        return replace(super().traits(), clean_forward=self.extra_forwards)

    @override
    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        found = super().perturb(model, batch, phase, budget)
        if self.extra_forwards:
            with torch.no_grad(), attackable(model, self.attack.bn):
                model(batch.x + found.delta)
        return found

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Return CE(f(x + delta), y), label-smoothed."""
        logits = model(batch.x + perturbation.delta)
        return Loss(cross_entropy(logits, batch.y, self.smoothing).mean(), logits)
