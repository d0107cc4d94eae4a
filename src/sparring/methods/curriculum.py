"""FAT, SAT, DART: wrappers that end the inner method's attack, image by image, ever later as the epochs go by."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring import ranks
from sparring.attacks import PGD, Ascent, KeepGoing
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.methods.base import Loss, Perturbation, Review, Task, Traits, state
from sparring.methods.wrapper import Layered, Wrapper, within
from sparring.schedule import Piecewise, Schedule
from sparring.threat import Budget, Ratio, Threat


@dataclass
class _Curriculum(Wrapper):
    """An inner method whose attack leaves each image where it is once a rule says so, for good.

    Raises:
        BadInput: in `setup`, an inner method without an attack.
    """

    taken: Tensor = state()  # (2,), this epoch's sums over this rank's images: attack steps, images
    epoch: int = state()
    _threat: Threat = field(init=False, repr=False, compare=False)
    _epochs: int = field(init=False, repr=False, compare=False)
    _compact: bool = field(init=False, repr=False, compare=False)

    @override
    def traits(self) -> Traits:
        return replace(super().traits(), shrinks=True)

    @override
    def setup(self, task: Task) -> None:
        super().setup(task)
        attack = self._attack()
        if attack is None:
            raise BadInput(
                f"{type(self).__name__} ends attacks early, and {type(self.inner).__name__} has none to end: put it around "
                "AdversarialTraining, TRADES or MART."
            )
        self._threat, self._epochs, self.epoch = task.threat, task.epochs, -1
        # Where the attack uses the batch's statistics, samples influence each other: none may leave.
        self._compact = task.compact and attack.bn == "eval"
        self.taken = torch.zeros(2, device=task.device)

    def begin_epoch(self, epoch: int, review: Review | None = None) -> None:
        """Count anew; once an epoch, also after a resume."""
        super().begin_epoch(epoch, review)
        if epoch != self.epoch:
            self.epoch = epoch
            self.taken.zero_()

    @override
    def own_phase(self, epoch: int, step: int) -> float:
        """Return the rule's bound in this epoch."""
        return self.bound(epoch)

    @override
    def perturb(
        self, model: nn.Module, batch: Batch, phase: Layered | None = None, budget: Budget | None = None
    ) -> Perturbation:
        """Run the inner method's attack, in which an image that has stopped once does not go on."""
        attack = self._attack()
        assert attack is not None
        budget = budget or replace(attack.budget(self._threat), compact=self._compact)
        phase = phase or self.phase(0, 0)
        rule, outer = self.rule(batch, budget, phase.own), budget.keep_going
        moving = torch.ones_like(batch.y, dtype=torch.bool)
        steps = torch.zeros_like(batch.x[:, 0, 0, 0])

        def going(ascent: Ascent) -> Tensor:
            moving.logical_and_(rule(ascent))
            if outer is not None:
                moving.logical_and_(outer(ascent))
            steps.add_(moving & (ascent.step < budget.steps))
            return moving

        found = self.inner.perturb(model, batch, within(phase), replace(budget, keep_going=going))
        # A curriculum inside has asked this rule and its own: it knows the steps that were taken.
        return found if found.steps is not None else replace(found, steps=steps)

    def commit(self, batch: Batch, perturbation: Perturbation, loss: Loss) -> None:
        """Count the steps."""
        super().commit(batch, perturbation, loss)
        if perturbation.steps is not None:
            self.taken[0] += perturbation.steps.sum()
            self.taken[1] += len(batch.y)

    def metrics(self) -> Mapping[str, Tensor]:
        """Return the mean number of attack steps an image."""
        steps, images = ranks.total(self.taken)
        return {**super().metrics(), "attack_steps": steps / images}

    def _attack(self) -> PGD | None:
        """Return the attack that is ended early."""
        traits = self.inner.traits()
        return traits.attack if traits.accepts_budget else None

    @abstractmethod
    def bound(self, epoch: int) -> float:
        """Return what the rule compares with in this epoch."""

    @abstractmethod
    def rule(self, batch: Batch, budget: Budget, bound: float) -> KeepGoing:
        """Say which images of this batch take the attack's next step; asked before each."""


@dataclass
class FAT(_Curriculum):
    """Friendly adversarial training: stop soon after an image is misclassified (Zhang et al., ICML 2020).

    An image stops at its misclassified iterate number tau + 1, wherever on the way the tau before it were. tau is the
    number of milestones that the run has passed.

    Args:
        inner: AdversarialTraining, TRADES or MART.
        milestones: fractions of the run; the default is the paper's 50 and 90 of 120 epochs.

    Raises:
        BadInput: a milestone outside [0, 1]; in `setup`, an inner method without an attack.
    """

    milestones: tuple[Ratio, ...] = field(default_factory=lambda: (Ratio("50/120"), Ratio("90/120")))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.milestones = tuple(Ratio(milestone) for milestone in self.milestones)
        for milestone in self.milestones:
            if not 0 <= milestone <= 1:
                raise BadInput(f"FAT's milestone {milestone} is not a fraction of the run in [0, 1]: write 50/120.")

    def bound(self, epoch: int) -> int:
        """Return tau: how many misclassified iterates are passed."""
        return sum(epoch >= milestone.exact * self._epochs for milestone in self.milestones)

    @override
    def rule(self, batch: Batch, budget: Budget, bound: float) -> KeepGoing:
        left = torch.full_like(batch.y, int(bound))

        def not_yet(ascent: Ascent) -> Tensor:
            left.sub_((ascent.logits.argmax(1) != batch.y).long())
            return left >= 0

        return not_yet


@dataclass
class SAT(_Curriculum):
    """A curriculum over how wrong an image may become (Sitawarin et al., AISec 2021; ATES before).

    An image takes a step while max_{j != y} p_j - p_y, in [-1, 1], is at most `gap`. At 1 this is the inner method itself.
    (The released code lets a stopped image go on. With BatchNorm in evaluation mode it never would: nothing moves it.)

    Args:
        inner: AdversarialTraining, TRADES or MART.
        gap: the largest difference of probabilities as a function of the epoch. The released values are not known; the
            default, 0 rising to 1 by half of the run, is ours.

    Raises:
        BadInput: in `setup`, a gap outside [-1, 1], or an inner method without an attack.
    """

    gap: Schedule = field(default_factory=lambda: Piecewise(((Ratio(0), 0.0), (Ratio("1/2"), 1.0), (Ratio(1), 1.0))))

    @override
    def setup(self, task: Task) -> None:
        super().setup(task)
        for epoch in range(task.epochs):
            if not -1 <= (gap := self.gap.factor(epoch, task.epochs)) <= 1:
                raise BadInput(f"SAT's gap is a difference of probabilities in [-1, 1], not {gap} as in epoch {epoch}.")

    def bound(self, epoch: int) -> float:
        """Return the gap."""
        return self.gap.factor(epoch, self._epochs)

    @override
    def rule(self, batch: Batch, budget: Budget, bound: float) -> KeepGoing:
        pass

        def not_too_wrong(ascent: Ascent) -> Tensor:
            probabilities = ascent.logits.softmax(1)
            own = probabilities.gather(1, batch.y[:, None])[:, 0]
            others = probabilities.scatter(1, batch.y[:, None], 0.0).amax(1)
            return others - own <= bound

        return not_too_wrong


@dataclass
class DART(_Curriculum):
    """Dynamic adversarial training: ever better converged attacks (Wang et al., ICML 2019).

    Every image takes a first step. From the second on it stops when its first-order stationary condition
    FOSC = eps ||g|| - <delta, g>, with the gradient g of what the attack ascends and the dual norm, is at most
    c_t = max(threshold (1 - t / (until T)), 0) in epoch t of T. FOSC is 0 where no perturbation in the ball is better, to
    first order; the pixel box does not enter.

    Args:
        inner: AdversarialTraining, TRADES or MART.
        threshold: c_max, at least 0; 0 asks for full convergence from the beginning.
        until: the fraction of the run at which c_t reaches 0, in (0, 1].
        origin: where delta is measured from, the image (the paper) or the random start (the released code).

    Raises:
        BadInput: a threshold or an `until` outside these; in `setup`, an inner method without an attack.
    """

    threshold: float = 0.5
    until: Ratio = field(default_factory=lambda: Ratio("100/120"))
    origin: Literal["image", "start"] = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.until = Ratio(self.until)
        if self.threshold < 0:
            raise BadInput(f"DART's threshold must be at least 0, not {self.threshold}.")
        if not 0 < self.until <= 1:
            raise BadInput(f"DART's until is a fraction of the run in (0, 1], not {self.until}: write 100/120.")

    def bound(self, epoch: int) -> float:
        """Return c_t."""
        return self.threshold * max(1 - float(epoch / (self.until.exact * self._epochs)), 0.0)

    @override
    def rule(self, batch: Batch, budget: Budget, bound: float) -> KeepGoing:
        origin = torch.zeros_like(batch.x)

        def not_converged(ascent: Ascent) -> Tensor:
            if ascent.step == 0:
                if self.origin == "start":
                    origin.copy_(ascent.delta)
                return torch.ones_like(batch.y, dtype=torch.bool)
            return self.fosc(ascent.delta - origin, ascent.gradient, budget.eps) > bound

        return not_converged

    def fosc(self, delta: Tensor, gradient: Tensor, eps: float | Tensor) -> Tensor:
        """Return eps ||g|| - <delta, g> of perturbations and gradients (B, C, H, W), (B,); the norm is the threat's dual."""
        dual = self._threat.geometry.largest_rise(gradient)
        return eps * dual - (delta * gradient).flatten(1).sum(1)
