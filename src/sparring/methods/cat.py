"""CAT: a curriculum over the number of attack steps, which goes on when the network has learnt the shorter attacks."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks import PGD, BatchNormMode
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.methods.base import Loss, Method, Perturbation, Phase, Review, Task, state
from sparring.randomness import uniform
from sparring.threat import Budget, Ratio, Threat


@dataclass
class CAT(Method):
    """Curriculum adversarial training (Cai et al., IJCAI 2018): CE(f(x + delta), y) on attacks of 0 to k steps.

    At level k, from 0, a batch is split into k + 1 equal shares (the last takes the rest), and share j is attacked with j
    steps of (2 eps / j) u from a uniform start, u drawn from U(1, 10 / j) for each share (U(10 / j, 1) beyond ten steps).
    When accuracy on held-out images, under the worst of the attacks with 0 to k steps of 2 eps / j, has not risen for
    `patience` epochs and that on training examples exceeds `mastery`, the network goes back to where the former was highest,
    and k rises by 1. The paper's network also rounds its input: `model.levels: 16`.

    Args:
        steps: the last level, at least 0.
        patience: epochs without an improvement, at least 1.
        mastery: accuracy on training examples, in [0, 1).
        judged_by: the attacks on held-out images: all of 0 to k steps, or the one with k steps alone (released).
        bn: BatchNorm in the training attack, in which each share is a batch of its own; unless it is eval, a share of
            one image stays clean.

    Raises:
        BadInput: any of these outside its range; in `setup`, no images held out.
    """

    steps: int = 7
    patience: int = 10
    mastery: float = 0.9
    bn: BatchNormMode = "train"
    judged_by: Literal["all", "longest"] = "all"
    level: int = state()  # k
    record: float = state()  # the highest accuracy at this level
    waited: int = state()  # epochs since
    best: dict[str, Any] = state()  # the learner at the record
    _threat: Threat = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0:
            raise BadInput(f"CAT's last level must be at least 0 steps, not {self.steps}.")
        if self.patience < 1:
            raise BadInput(f"CAT's patience must be at least 1 epoch, not {self.patience}.")
        if not 0 <= self.mastery < 1:
            raise BadInput(f"CAT's mastery is an accuracy in [0, 1), not {self.mastery}.")

    @override
    def setup(self, task: Task) -> None:
        if self.steps and task.held_out == 0:
            raise BadInput(
                "CAT goes on by accuracy on images held out of the training set: set data.validation above 0."
            )
        self._threat, self.level, self.record, self.waited, self.best = task.threat, 0, -1.0, 0, {}

    @override
    def begin_epoch(self, epoch: int, review: Review | None = None) -> None:
        """Note an improvement, or go back to the last one and on to the next level."""
        if review is None or self.level == self.steps:
            return
        target = review.learner
        shortest = 1 if self.judged_by == "all" else max(self.level, 1)
        accuracy = review.accuracy([self._attack(j, "eval") for j in range(shortest, self.level + 1)])
        if accuracy > self.record:
            self.record, self.waited, self.best = accuracy, 0, deepcopy(target.state_dict())
            return
        self.waited += 1
        if self.waited >= self.patience and review.train_accuracy > self.mastery:
            # The schedule goes on: only what was learnt is taken back.
            target.load_state_dict({**self.best, "steps": target.steps})
            # The optimizer now owns the copy's tensors, and moves them.
            self.level, self.record, self.waited, self.best = self.level + 1, -1.0, 0, {}

    @override
    def phase(self, epoch: int, step: int) -> int:
        """Return the level."""
        return self.level

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        """Share j after j steps; a budget's radius applies, its steps and step sizes do not."""
        eps: float | Tensor = budget.eps if budget else self._threat.eps
        share = len(batch.y) // (self.level + 1)
        delta = torch.zeros_like(batch.x)
        start = torch.zeros_like(batch.x)
        draws = uniform(batch.x.new_zeros(self.level + 1))
        for j in range(1, self.level + 1):
            part = slice(j * share, (j + 1) * share if j < self.level else len(batch.y))
            attack, x = self._attack(j, self.bn), batch.x[part]
            if len(x) < (1 if self.bn == "eval" else 2):  # BatchNorm's statistics need two
                continue
            radius = eps[part] if isinstance(eps, Tensor) else eps
            chosen = Budget(radius, (2 * radius / j) * (1 + draws[j] * (10 / j - 1)), j)
            start[part] = attack.initial(x, self._threat, chosen)
            objective = partial(cross_entropy, y=batch.y[part])
            delta[part] = attack.run(model, x, objective, self._threat, budget=chosen, start=start[part])
        return Perturbation(delta, start)

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Return CE(f(x + delta), y)."""
        logits = model(batch.x + perturbation.delta)
        return Loss(cross_entropy(logits, batch.y).mean(), logits)

    def metrics(self) -> Mapping[str, Tensor]:
        """Return the level."""
        return {"level": torch.tensor(float(self.level))}

    def _attack(self, steps: int, bn: BatchNormMode) -> PGD:
        return PGD(steps=steps, alpha=Ratio(str(self._threat.eps.exact * 2 / steps)), bn=bn)
