"""What an attack strategy of LAS is worth: hard for the target now, and good for the target one gradient step later."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparring.attacks import PGD, attackable
from sparring.choices import check_choices
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.learner import Learner, LookAhead
from sparring.losses import cross_entropy
from sparring.methods.base import Method, Perturbation, Phase
from sparring.threat import Threat, per_sample


@dataclass(frozen=True)
class Reward:
    """The return L1 + l2_weight L2 + l3_weight L3 of a perturbation x_adv (Jia et al., CVPR 2022), with

        L1 =  CE(f(x_adv), y)            the attack is hard for the target now,
        L2 = -CE(f_ahead(x_other), y)    and makes the target, one gradient step on x_adv later, robust to another attack
        L3 = -CE(f_ahead(x), y)          and right about the clean image.

    Args:
        terms: which of L1, L2 and L3 count (Table 6).
        measure: L2 and L3 as negative cross-entropies (the paper) or as accuracies (the released code).
        hardness: L1 as the cross-entropy of x_adv, or as the inner method's whole objective (released LAS-TRADES), one
            number a batch.
        l2_weight: the talk's alpha, at least 0.
        l3_weight: the talk's beta, at least 0.
        other: the attack that leads to x_other, on the target one step ahead.
        restarts: of that attack, of which the strongest counts for each image.

    Raises:
        BadInput: terms that are none or repeated, a negative weight, fewer than 1 restart.
    """

    terms: tuple[Literal["L1", "L2", "L3"], ...] = ("L1", "L2", "L3")
    measure: Literal["neg_ce", "accuracy"] = "neg_ce"
    hardness: Literal["ce", "objective"] = "ce"
    l2_weight: float = 1.0
    l3_weight: float = 1.0
    other: PGD = field(default_factory=PGD)
    restarts: int = 1

    def __post_init__(self) -> None:
        check_choices(self)
        object.__setattr__(self, "terms", tuple(self.terms))
        if not self.terms or len(set(self.terms)) < len(self.terms):
            raise BadInput(f"The terms of LAS's return are some of L1, L2 and L3, each once, not {list(self.terms)}.")
        for name, least in (("l2_weight", 0), ("l3_weight", 0), ("restarts", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"The reward needs {name} >= {least}, not {getattr(self, name)}.")

    def of(
        self,
        perturbation: Perturbation,
        batch: Batch,
        inner: Method,
        phase: Phase,
        target: Learner,
        ahead: LookAhead,
        threat: Threat,
    ) -> Float[Tensor, "4 B"]:
        """Return L1, L2, L3 (0 where it does not count) and the return, for each image; `ahead` moves, the target does not.

        `phase` is the inner method's.
        """
        none = torch.zeros_like(batch.x[:, 0, 0, 0])
        l1 = self._hardness(perturbation, batch, inner, phase, target.attack_model) if "L1" in self.terms else none
        l2 = l3 = none
        if "L2" in self.terms or "L3" in self.terms:
            _go_ahead(ahead, inner, phase, batch, perturbation)
        if "L2" in self.terms:
            l2 = self._rightness(ahead.model, batch.x + self._other_attack(ahead.model, batch, threat), batch.y)
        if "L3" in self.terms:
            l3 = self._rightness(ahead.model, batch.x, batch.y)
        return torch.stack([l1, l2, l3, l1 + self.l2_weight * l2 + self.l3_weight * l3])

    def _hardness(
        self, perturbation: Perturbation, batch: Batch, inner: Method, phase: Phase, model: nn.Module
    ) -> Tensor:
        """Return L1, (B,), with BatchNorm in evaluation mode."""
        with torch.no_grad(), attackable(model, "eval"):
            if self.hardness == "objective":
                return inner.loss(model, batch, perturbation, phase).total.expand(len(batch.y))
            return cross_entropy(model(batch.x + perturbation.delta), batch.y)

    def _other_attack(self, model: nn.Module, batch: Batch, threat: Threat) -> Tensor:
        """Return the perturbations (B, C, H, W) of the highest loss among the restarts."""
        objective = partial(cross_entropy, y=batch.y)
        strongest = self.other.run(model, batch.x, objective, threat)
        if self.restarts == 1:
            return strongest
        loss = self._loss(model, batch, strongest)
        for _ in range(self.restarts - 1):
            delta = self.other.run(model, batch.x, objective, threat)
            loss_here = self._loss(model, batch, delta)
            strongest = torch.where(per_sample(loss_here > loss, delta), delta, strongest)
            loss = torch.maximum(loss, loss_here)
        return strongest

    def _loss(self, model: nn.Module, batch: Batch, delta: Tensor) -> Tensor:
        with torch.no_grad(), attackable(model, self.other.bn):
            return cross_entropy(model(batch.x + delta), batch.y)

    def _rightness(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return how right the network is about images x, (B,): minus the cross-entropy, or 1 and 0."""
        with torch.no_grad(), attackable(model, "eval"):
            logits = model(x)
        return -cross_entropy(logits, y) if self.measure == "neg_ce" else (logits.argmax(1) == y).to(logits.dtype)


def _go_ahead(ahead: LookAhead, inner: Method, phase: Phase, batch: Batch, perturbation: Perturbation) -> None:
    """Take the target to where its own next step on this perturbation would leave it, but for the momentum."""
    ahead.catch_up()
    model = ahead.model.train()
    with inner.shifted_weights(model, batch, perturbation, phase):
        ahead.backward(inner.loss(model, batch, perturbation, phase).total)
    ahead.step()
