"""FGSM, PGD and C&W: the gradient attacks, for training (`run`) and for evaluation (as searches).

Evaluation stops a sample at its first misclassified iterate, so an image counts as robust only if the start and every
iterate were classified correctly: stronger than evaluating the last iterate alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks.ascent import Objective, ascend
from sparring.attacks.attack import Labels, SearchAttack
from sparring.attacks.modes import BatchNormMode, attackable
from sparring.attacks.search import CountedModel, Search, SearchState, initial_fields
from sparring.choices import check_choice
from sparring.deprecation import renamed_method
from sparring.errors import BadInput
from sparring.losses import cross_entropy, margin
from sparring.randomness import Generator, SampleStreams, normal, rademacher
from sparring.threat import Budget, ImageBatch, Ratio, Threat, box, check_step, check_threat, step_size

Start = Literal["zero", "uniform", "normal", "bernoulli"]

TRADES_NOISE = 1e-3  # standard deviation of the "normal" start (TRADES and its descendants)


def draw_start(
    kind: Start, x: ImageBatch, threat: Threat, eps: float | Tensor, generator: Generator = None
) -> ImageBatch:
    """Return where an attack begins, (B, C, H, W): no perturbation, uniform in the ball, N(0, 1e-3), or +-eps at random.

    The normal start is not clipped: the first step's projection does that, as in TRADES. Raises BadInput for another kind.
    """
    check_choice("start", kind, get_args(Start))
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "normal":
        return TRADES_NOISE * normal(x, generator)
    if kind == "bernoulli":
        return threat.confine(x, rademacher(x, generator), eps)
    return box(x, threat.draw(x, eps, generator))


@dataclass(frozen=True)
class PGD(SearchAttack):
    """Projected gradient descent (Madry et al., ICLR 2018).

    Args:
        steps: number of steps, at least 1.
        alpha: step size in pixel fractions; None is eps / 4, which is 2/255 at eps = 8/255.
        start: zero, uniform in the ball, normal (1e-3 noise) or bernoulli (+-eps).
        bn: how BatchNorm behaves meanwhile: eval, train, or train_frozen_stats.
        objective: ce (cross-entropy) or margin (max_{j != y} z_j - z_y, called C&W in the AT literature).

    Raises:
        BadInput: fewer than 1 step; a step size that is not positive, or, once the threat is known, more than twice eps.
    """

    steps: int = 10
    alpha: Ratio | None = None
    start: Start = "uniform"
    bn: BatchNormMode = "eval"
    objective: Literal["ce", "margin"] = "ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise BadInput(f"An attack needs at least 1 step, not {self.steps}.")
        object.__setattr__(self, "alpha", step_size(self.alpha))

    def budget(self, threat: Threat) -> Budget:
        """Return the same radius, step size and steps for every sample."""
        return Budget(threat.eps, self._alpha(threat), self.steps)

    def objective_for(self, y: Labels) -> Objective:
        """Return the configured objective for these labels: logits (B, K) -> (B,)."""
        return partial(cross_entropy, y=y) if self.objective == "ce" else partial(margin, y=y)

    def initial(
        self, x: ImageBatch, threat: Threat, budget: Budget | None = None, generator: Generator = None
    ) -> ImageBatch:
        """Return a start of the configured kind, (B, C, H, W)."""
        budget = budget or self.budget(threat)
        return draw_start(self.start, x, threat, budget.eps if budget.start is None else budget.start, generator)

    def run(
        self,
        model: nn.Module,
        x: ImageBatch,
        objective: Objective,
        threat: Threat,
        *,
        budget: Budget | None = None,
        start: ImageBatch | None = None,
        generator: Generator = None,
    ) -> ImageBatch:
        """Return the perturbation (B, C, H, W) after the last step; `start` and `budget` replace the configured ones."""
        check_threat(threat)
        budget = budget or self.budget(threat)
        if start is None:
            start = self.initial(x, threat, budget, generator)
        with attackable(model, self.bn):
            return ascend(model, x, objective, threat, budget, start)

    @override
    def searches(self, classes: int, threat: Threat) -> Mapping[str, Search]:
        check_step(self.alpha, threat)
        return super().searches(classes, threat)

    climb = renamed_method("climb", run)
    begin = renamed_method("begin", initial)
    goal = renamed_method("goal", objective_for)

    @override
    @property
    def max_steps(self) -> int:
        return self.steps

    @override
    def init(
        self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat
    ) -> SearchState:
        start = threat.confine(x, draw_start(self.start, x, threat, threat.eps, streams))
        return SearchState(**initial_fields(x, y, x + start))

    @override
    def step(self, model: CountedModel, state: SearchState, threat: Threat) -> SearchState:
        gradient, logits = model.gradient(state.point, self.objective_for(state.y))
        step = self._alpha(threat) * threat.steepest(gradient)
        point = threat.image(state.x, state.point - state.x + step)
        return replace(state, point=point, found=logits.argmax(1) != state.y, candidate=state.point)

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:
        return {
            "steps": self.steps,
            "alpha": str(self._alpha(threat)),
            "start": self.start,
            "restarts": 1,
            "objective": self.objective,
        }

    def _alpha(self, threat: Threat) -> Ratio:
        check_step(self.alpha, threat)
        return self.alpha if self.alpha is not None else self._usual(threat)

    def _usual(self, threat: Threat) -> Ratio:
        return Ratio(str(threat.eps.exact * Fraction(1, 4)))


@dataclass(frozen=True)
class CW(PGD):
    """The margin loss of Carlini and Wagner (2017) under PGD: what the AT literature reports as C&W."""

    steps: int = 20
    objective: Literal["ce", "margin"] = "margin"


@dataclass(frozen=True)
class IFGSM(PGD):
    """FGSM in several steps that add up to eps, from the image itself (Kurakin et al., ICLR 2017 workshop)."""

    start: Start = "zero"

    @override
    def _usual(self, threat: Threat) -> Ratio:
        return Ratio(str(threat.eps.exact * Fraction(1, self.steps)))


@dataclass(frozen=True)
class FGSM(SearchAttack):
    """One step of size eps from the image itself (Goodfellow et al., ICLR 2015)."""

    @override
    @property
    def max_steps(self) -> int:
        return 1

    @override
    def init(
        self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat
    ) -> SearchState:
        return _one_step(threat).init(x, y, clean, attempt, streams, threat)

    @override
    def step(self, model: CountedModel, state: SearchState, threat: Threat) -> SearchState:
        return _one_step(threat).step(model, state, threat)

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:
        return _one_step(threat).describe(threat)


def _one_step(threat: Threat) -> PGD:
    return PGD(steps=1, alpha=threat.eps, start="zero")


@dataclass(frozen=True)
class Restarted(SearchAttack):
    """An attack repeated from new random starts on the images that survived, keeping the first success of each.

    Raises BadInput for fewer than one restart.
    """

    attack: SearchAttack
    restarts: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts < 1:
            raise BadInput(f"An attack needs at least 1 restart, not {self.restarts}.")

    @override
    def searches(self, classes: int, threat: Threat) -> Mapping[str, Search]:
        return {name: _again(search, self.restarts) for name, search in self.attack.searches(classes, threat).items()}

    @override
    @property
    def state_type(self) -> type[SearchState]:  # type: ignore[override]  # a search wrapped around another has the other's
        return self.attack.state_type

    @override
    @property
    def max_steps(self) -> int:
        return self.attack.max_steps

    @override
    def attempts(self, classes: int) -> int:
        return self.restarts * self.attack.attempts(classes)

    @override
    def init(
        self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat
    ) -> SearchState:
        return self.attack.init(x, y, clean, attempt % self.attack.attempts(clean.shape[1]), streams, threat)

    @override
    def step(self, model: CountedModel, state: SearchState, threat: Threat) -> SearchState:
        return self.attack.step(model, state, threat)

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:
        return self.attack.describe(threat) | {"restarts": self.restarts}


def _again(search: Search, restarts: int) -> Search:
    assert isinstance(search, SearchAttack)  # an attack that is a single search consists of one
    return Restarted(search, restarts)
