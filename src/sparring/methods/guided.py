"""GAT and NuAT: one-step training whose attack and loss are guided by the distance between two predictions."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring import ranks
from sparring.attacks import PGD, BatchNormMode, Objective, attackable
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.methods.base import Loss, Method, Perturbation, Task, Traits
from sparring.schedule import MultiStep, Piecewise, Schedule
from sparring.threat import Budget, Ratio, Threat, check_step, step_size


class GuidedPhase(NamedTuple):
    """What a step of GAT and NuAT depends on."""

    weight: float  # lambda in this epoch
    second: bool  # whether this is a second batch, whose attack is guided


@dataclass
class _Guided(Method):
    """What GAT and NuAT share: CE(f(x), y) + weight D(f(x), f(x + delta)), D a distance of the subclass's own.

    The attack starts at +-eps / 2 at random and goes eps in all, up CE; in every second batch up CE + weight D.

    Args:
        weight: lambda, at least 0.
        ramp: what lambda is multiplied by, as a function of the epoch.
        bn: BatchNorm in the attack.
        clean_bn: BatchNorm in the attack's clean prediction, which the loss repeats in training mode. With train, as
            released, the prediction is made before every attack, guided or not, since it moves the running statistics.

    Raises:
        BadInput: a negative weight, or, in `setup`, one that the ramp makes negative.
    """

    weight: float
    ramp: Schedule
    bn: BatchNormMode = "eval"
    clean_bn: BatchNormMode = "train_frozen_stats"
    _threat: Threat = field(init=False, repr=False, compare=False)
    _epochs: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight < 0:
            raise BadInput(f"{type(self).__name__} needs a weight of at least 0, not {self.weight}.")

    @override
    def setup(self, task: Task) -> None:
        self._threat, self._epochs = task.threat, task.epochs
        for epoch in range(task.epochs):
            if (factor := self.ramp.factor(epoch, task.epochs)) < 0:
                raise BadInput(
                    f"The ramp must keep the weight at 0 or above, not multiply it by {factor} as in epoch {epoch}."
                )

    @override
    def phase(self, epoch: int, step: int) -> GuidedPhase:
        return GuidedPhase(self.weight * self.ramp.factor(epoch, self._epochs), step % 2 == 1)

    def perturb(
        self, model: nn.Module, batch: Batch, phase: GuidedPhase | None = None, budget: Budget | None = None
    ) -> Perturbation:
        """Take one step of eps from +-eps / 2; a budget's steps do not apply to a one-step method."""
        phase = phase or self.phase(0, 0)
        weight = phase.weight if phase.second else None
        return self._run(model, batch, budget, 1, None, weight)

    def loss(
        self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: GuidedPhase | None = None
    ) -> Loss:
        """Compute the guided loss above."""
        phase = phase or self.phase(0, 0)
        # In the released order, which decides what BatchNorm's running statistics saw last.
        adversarial = model(batch.x + perturbation.delta)
        clean = model(batch.x)
        natural = cross_entropy(clean, batch.y).mean()
        distance = self._distance(clean, adversarial)
        terms = {"natural": natural.detach(), "distance": distance.detach()}
        return Loss(natural + phase.weight * distance, adversarial, terms)

    def _run(
        self,
        model: nn.Module,
        batch: Batch,
        budget: Budget | None,
        steps: int,
        alpha: Ratio | None,
        weight: float | None,
    ) -> Perturbation:
        """Take steps of alpha, or such that they add up to eps; the first is guided with this weight, unless it is None."""
        eps: float | Tensor = budget.eps if budget else self._threat.eps
        size: float | Tensor = eps / steps if alpha is None else alpha
        once = Budget(eps, budget.alpha if budget else size, steps=1, start=eps / 2)
        attack = PGD(steps=1, start="bernoulli", bn=self.bn)
        delta = start = attack.initial(batch.x, self._threat, once)
        objective = attack.objective_for(batch.y)
        first = self._first_objective(model, batch, objective, weight)
        for step in range(steps):
            delta = attack.run(model, batch.x, objective if step else first, self._threat, budget=once, start=delta)
        return Perturbation(delta, start)

    def _first_objective(self, model: nn.Module, batch: Batch, objective: Objective, weight: float | None) -> Objective:
        if weight is None and self.clean_bn != "train":
            return objective
        with torch.no_grad(), attackable(model, self.clean_bn):
            clean = model(batch.x)
        if weight is None:
            return objective
        # Values are summed over the batch, and the distance is a mean over it.
        return lambda logits: objective(logits) + weight * self._distance(clean, logits)

    @abstractmethod
    def _distance(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        """Return D of two predictions, logits (B, K) each: a mean over the batch, ()."""


@dataclass
class GAT(_Guided):
    """Guided adversarial training: D is the squared distance of the probabilities (Sriramanan et al., NeurIPS 2020)."""

    weight: float = 10.0
    ramp: Schedule = field(default_factory=lambda: MultiStep((Ratio("85/100"),), gamma=4.0))

    def _distance(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        return (clean.softmax(1) - adversarial.softmax(1)).square().sum(1).mean()


@dataclass
class NuAT(_Guided):
    """Nuclear-norm adversarial training (Sriramanan et al., NeurIPS 2021).

    D is the nuclear norm of the batch's differences of logits, over the batch size; of all ranks' rows together. The
    decomposition that it needs makes the host wait for a GPU.

    Args:
        weight: see `_Guided`.
        ramp: see `_Guided`.
        bn: see `_Guided`.
        clean_bn: see `_Guided`.
        steps: of the attack. With one, every second batch is guided; with more (NuAT2) the first step of each batch.
        alpha: step size; None is eps / steps.
        divisor: what the norm is divided by instead of the batch size, also in a last batch that is smaller (released: 64).

    Raises:
        BadInput: fewer than one step, a step size or divisor that is not positive, and what GAT refuses.
    """

    weight: float = 4.5
    ramp: Schedule = field(
        default_factory=lambda: Piecewise(((Ratio(0), 0.0), (Ratio("90/100"), 1.0), (Ratio(1), 1.0)))
    )
    steps: int = 1
    alpha: Ratio | None = None
    divisor: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divisor is not None and self.divisor < 1:
            raise BadInput(f"NuAT divides by a batch size, at least 1, not by {self.divisor}: leave divisor out.")
        if self.steps < 1:
            raise BadInput(f"NuAT needs at least 1 attack step, not {self.steps}.")
        self.alpha = step_size(self.alpha)

    @override
    def setup(self, task: Task) -> None:
        check_step(self.alpha, task.threat)
        super().setup(task)

    def perturb(
        self, model: nn.Module, batch: Batch, phase: GuidedPhase | None = None, budget: Budget | None = None
    ) -> Perturbation:
        """Take steps from +-eps / 2, which add up to eps unless alpha says otherwise."""
        phase = phase or self.phase(0, 0)
        weight = phase.weight if self.steps > 1 or phase.second else None
        return self._run(model, batch, budget, self.steps, self.alpha, weight)

    @override
    def traits(self) -> Traits:
        return Traits(host_waits=True)

    def _distance(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        difference = ranks.rows_with_gradient(clean - adversarial)
        # The decomposition raises an error for numbers that are not finite; the trainer has a sentence for such a loss.
        finite = torch.nan_to_num(difference, nan=0.0, posinf=0.0, neginf=0.0)
        size = len(difference) if self.divisor is None else self.divisor * ranks.count()
        return torch.linalg.matrix_norm(finite, "nuc") / size + 0 * difference.sum()
