"""TRADES: a clean loss, and a divergence that keeps the prediction constant inside the ball."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks import PGD, attackable
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.losses import cross_entropy, kl_divergence
from sparring.methods.base import Loss, Method, Perturbation, Phase, Task, Traits
from sparring.threat import Budget, Threat


@dataclass
class Diverging(Method):
    """A method whose attack drives the prediction away from the clean one; its loss is its own.

    Args:
        attack: ascends KL(f(x) || f(x + delta)); it must not start at zero, where the divergence has no gradient.

    Raises:
        BadInput: an attack that starts at zero or has another objective.
    """

    attack: PGD = field(default_factory=lambda: PGD(start="normal", bn="eval"), kw_only=True)
    _threat: Threat = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.attack.objective != "ce":
            raise BadInput(f"{name} attacks by its own divergence: leave attack.objective out.")
        if self.attack.start == "zero":
            raise BadInput(f"{name} cannot start its attack at zero, where KL has no gradient: use start: normal.")

    @override
    def traits(self) -> Traits:
        return Traits(attack=self.attack)

    @override
    def setup(self, task: Task) -> None:
        self._threat = task.threat

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        """Solve max_delta KL(f(x) || f(x + delta)); f(x) is computed once, in the attack's BatchNorm mode."""
        start = self.attack.initial(batch.x, self._threat, budget)
        with attackable(model, self.attack.bn):
            with torch.no_grad():
                clean = model(batch.x)
            objective = partial(kl_divergence, clean)
            delta = self.attack.run(model, batch.x, objective, self._threat, budget=budget, start=start)
        return Perturbation(delta, start)


@dataclass
class TRADES(Diverging):
    """CE on clean images plus beta times KL(clean || adversarial) (Zhang et al., ICML 2019).

    Args:
        beta: weight of the divergence, at least 0.
        attack: see `Diverging`.
        smoothing: PyTorch's label smoothing in the clean loss.
        forwards: the forward passes of the loss, in order. The released codes make a second one of the clean images
            (clean-adversarial-clean; in TRADES-AWP adversarial-clean-clean), which gives the same logits and moves
            BatchNorm's running statistics once more towards clean images; it is made without a graph.

    Raises:
        BadInput: a negative beta, and what `Diverging` refuses.
    """

    beta: float = 6.0
    smoothing: float = 0.0
    forwards: Literal["clean-adversarial", "clean-adversarial-clean", "adversarial-clean-clean"] = "clean-adversarial"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0:
            raise BadInput(f"TRADES needs beta >= 0, not {self.beta}.")

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Return CE(f(x), y) + beta KL(f(x) || f(x + delta)), with gradients through both predictions (eq. 5)."""
        images = {"clean": batch.x, "adversarial": batch.x + perturbation.delta}
        logits: dict[str, Tensor] = {}
        for which in self.forwards.split("-"):
            with torch.set_grad_enabled(which not in logits):
                logits.setdefault(which, model(images[which]))
        clean, adversarial = logits["clean"], logits["adversarial"]
        natural = cross_entropy(clean, batch.y, self.smoothing).mean()
        divergence = kl_divergence(clean, adversarial)
        beta = self.beta if perturbation.weight is None else perturbation.weight
        terms = {"natural": natural.detach(), "divergence": divergence.detach().mean()}
        return Loss(natural + (beta * divergence).mean(), adversarial, terms)

    @override
    def traits(self) -> Traits:
        return replace(super().traits(), accepts_budget=True, accepts_weight=True)
