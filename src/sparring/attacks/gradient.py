"""FGSM, PGD and C&W: the gradient attacks, for training (`climb`) and for evaluation (as searches).

Evaluation stops a sample at its first misclassified iterate, so an image counts as robust only if the start and every
iterate were classified correctly: stronger than judging the last iterate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks.ascent import Objective, ascend
from sparring.attacks.attack import SearchAttack
from sparring.attacks.modes import BatchNormMode, attackable
from sparring.attacks.search import Lanes, Probe, Search, opened
from sparring.errors import BadInput
from sparring.losses import cross_entropy, margin
from sparring.randomness import Generator, SampleStreams, normal, rademacher
from sparring.threat import Budget, Ratio, Threat, box

Images = Float[Tensor, "B C H W"]
Labels = Int[Tensor, " B"]
Start = Literal["zero", "uniform", "normal", "bernoulli"]

TRADES_NOISE = 1e-3  # standard deviation of the "normal" start (TRADES and its descendants)


def draw_start(kind: Start, x: Images, threat: Threat, eps: float | Tensor, generator: Generator = None) -> Images:
    """Where an attack begins, (B, C, H, W): no perturbation, uniform in the ball, N(0, 1e-3), or +-eps at random.

    The normal start is not clipped: the first step's projection does that, as in TRADES.
    """
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
        BadInput: fewer than 1 step; a step size that is not positive.
    """

    steps: int = 10
    alpha: Ratio | None = None
    start: Start = "uniform"
    bn: BatchNormMode = "eval"
    objective: Literal["ce", "margin"] = "ce"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BadInput(f"An attack needs at least 1 step, not {self.steps}.")
        if self.alpha is not None:
            object.__setattr__(self, "alpha", Ratio(self.alpha))
            if self.alpha <= 0:
                raise BadInput(f"The step size alpha must be positive, not {self.alpha}.")

    def budget(self, threat: Threat) -> Budget:
        """The same radius, step size and steps for every sample."""
        return Budget(threat.eps, self._alpha(threat), self.steps)

    def goal(self, y: Labels) -> Objective:
        """The configured objective for these labels: logits (B, K) -> (B,)."""
        return partial(cross_entropy, y=y) if self.objective == "ce" else partial(margin, y=y)

    def begin(self, x: Images, threat: Threat, budget: Budget | None = None, generator: Generator = None) -> Images:
        """A start of the configured kind, (B, C, H, W)."""
        budget = budget or self.budget(threat)
        return draw_start(self.start, x, threat, budget.eps if budget.start is None else budget.start, generator)

    def climb(
        self,
        model: nn.Module,
        x: Images,
        objective: Objective,
        threat: Threat,
        *,
        budget: Budget | None = None,
        start: Images | None = None,
        generator: Generator = None,
    ) -> Images:
        """The perturbation (B, C, H, W) after the last step; `start` and `budget` replace the configured ones."""
        budget = budget or self.budget(threat)
        if start is None:
            start = self.begin(x, threat, budget, generator)
        with attackable(model, self.bn):
            return ascend(model, x, objective, threat, budget, start)

    @override
    @property
    def length(self) -> int:
        return self.steps

    @override
    def open(self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat) -> Lanes:
        start = threat.confine(x, draw_start(self.start, x, threat, threat.eps, streams))
        return Lanes(**opened(x, y, x + start))

    def advance(self, probe: Probe, lanes: Lanes, threat: Threat) -> Lanes:
        """See `Search`: an image is fooled by the first misclassified iterate, the start among them."""
        gradient, logits = probe.gradient(lanes.point, self.goal(lanes.y))
        step = self._alpha(threat) * threat.steepest(gradient)
        point = threat.image(lanes.x, lanes.point - lanes.x + step)
        return replace(lanes, point=point, found=logits.argmax(1) != lanes.y, candidate=lanes.point)

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
        return self.alpha if self.alpha is not None else Ratio(str(threat.eps.exact * Fraction(1, 4)))


@dataclass(frozen=True)
class CW(PGD):
    """The margin loss of Carlini and Wagner (2017) under PGD: what the AT literature reports as C&W."""

    steps: int = 20
    objective: Literal["ce", "margin"] = "margin"


@dataclass(frozen=True)
class FGSM(SearchAttack):
    """One step of size eps from the image itself (Goodfellow et al., ICLR 2015)."""

    @override
    @property
    def length(self) -> int:
        return 1

    @override
    def open(self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat) -> Lanes:
        return _one_step(threat).open(x, y, clean, attempt, streams, threat)

    @override
    def advance(self, probe: Probe, lanes: Lanes, threat: Threat) -> Lanes:
        return _one_step(threat).advance(probe, lanes, threat)

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
        if self.restarts < 1:
            raise BadInput(f"An attack needs at least 1 restart, not {self.restarts}.")

    @override
    def searches(self, classes: int, threat: Threat) -> Mapping[str, Search]:
        return {name: _again(search, self.restarts) for name, search in self.attack.searches(classes, threat).items()}

    @override
    @property
    def lanes(self) -> type[Lanes]:  # type: ignore[override]  # a search wrapped around another has the other's
        return self.attack.lanes

    @override
    @property
    def length(self) -> int:
        return self.attack.length

    @override
    def attempts(self, classes: int) -> int:
        return self.restarts * self.attack.attempts(classes)

    @override
    def open(self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat) -> Lanes:
        return self.attack.open(x, y, clean, attempt % self.attack.attempts(clean.shape[1]), streams, threat)

    @override
    def advance(self, probe: Probe, lanes: Lanes, threat: Threat) -> Lanes:
        return self.attack.advance(probe, lanes, threat)

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:
        return self.attack.describe(threat) | {"restarts": self.restarts}


def _again(search: Search, restarts: int) -> Search:
    assert isinstance(search, SearchAttack)  # an attack that is a single search consists of one
    return Restarted(search, restarts)
