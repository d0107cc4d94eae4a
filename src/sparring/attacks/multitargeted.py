"""MultiTargeted: one attempt for each class that an image might be taken for, with Adam."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from typing_extensions import override

from sparring.attacks.attack import SearchAttack
from sparring.attacks.gradient import draw_start
from sparring.attacks.search import CountedModel, SearchState, initial_fields, ranked
from sparring.errors import BadInput
from sparring.losses import targeted_margin
from sparring.randomness import SampleStreams
from sparring.threat import Threat, per_sample

_RATE = 0.1  # pixel fractions, whatever the radius
_MEAN_DECAY, _SQUARE_DECAY, _SMALL = 0.9, 0.999, 1e-9  # Adam's


@dataclass(frozen=True)
class MultiTargetedState(SearchState):
    """The state of MultiTargeted."""

    target: Tensor  # (L,), the classes to be reached; never changes
    mean: Tensor  # (L, C, H, W), Adam's running mean of the gradients
    square: Tensor  # (L, C, H, W), and of their squares; in L2 and L1 the same for all pixels


@dataclass(frozen=True)
class MultiTargeted(SearchAttack):
    """Ascends z_t - z_y for one target class t after another (Gowal et al., 2019, arXiv 1910.09338).

    Restart i, counted from 0, takes the class whose clean logit is the (i mod targets)-th greatest of the wrong ones, and
    begins anywhere in the ball. An image is fooled by the first iterate that is taken for any wrong class, the start among
    them. Steps are Adam's (Kingma and Ba, ICLR 2015) followed by the projection onto the ball and the box; its rate is 0.1,
    0.01 from half of the steps on and 0.001 from three quarters on. In L2 and L1 Adam's running mean of the squares is one
    number for an image, its pixels' mean: with one for each pixel the steps point at the corners of the pixels' cube, and
    end far from the best point of a sphere (on digits in L2 more than half of the successes were lost).

    10 restarts of 200 steps are what "AA+MT" (Gowal et al., 2020, arXiv 2010.03593) adds to AutoAttack. Adam's constants,
    the first rate and where it falls are those of the first author's later code (deepmind-research,
    adversarial_robustness), for 40 steps; its factors 0.1 and 0.01 multiply, so that it ends at 0.0001. Not confirmed: the
    rates of the paper itself, and whether "10 restarts" means 10 in total, as here, or for each target.

    Args:
        steps: number of steps of an attempt, at least 1.
        restarts: attempts at an image, at least 1.
        targets: number of wrong classes to take turns with, at least 1; all where there are no more.

    Raises:
        BadInput: a number below 1.
    """

    state_type = MultiTargetedState

    steps: int = 200
    restarts: int = 10
    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("step", self.steps), ("restart", self.restarts), ("target", self.targets)):
            if value < 1:
                raise BadInput(f"MultiTargeted needs at least 1 {name}, not {value}.")

    @override
    @property
    def max_steps(self) -> int:
        return self.steps

    @override
    def attempts(self, classes: int) -> int:
        return self.restarts

    @override
    def init(
        self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat
    ) -> SearchState:
        own_first = clean.scatter(1, y[:, None], torch.inf)
        target = ranked(own_first, 1 + attempt % min(self.targets, clean.shape[1] - 1))
        start = draw_start("uniform", x, threat, threat.eps, streams)
        nothing = torch.zeros_like(x)
        return MultiTargetedState(**initial_fields(x, y, x + start), target=target, mean=nothing, square=nothing)

    @override
    def step(self, model: CountedModel, state: SearchState, threat: Threat) -> SearchState:
        assert isinstance(state, MultiTargetedState)
        gradient, logits = model.gradient(state.point, partial(targeted_margin, y=state.y, target=state.target))
        mean = _MEAN_DECAY * state.mean + (1 - _MEAN_DECAY) * gradient
        square = _SQUARE_DECAY * state.square + (1 - _SQUARE_DECAY) * self._squares(gradient, threat)
        count = (state.step + 1).to(mean.dtype)
        unbiased_mean = mean / per_sample(1 - _MEAN_DECAY**count, mean)
        unbiased_square = square / per_sample(1 - _SQUARE_DECAY**count, mean)
        step = per_sample(self._rate(state), mean) * unbiased_mean / (unbiased_square.sqrt() + _SMALL)
        return replace(
            state,
            point=threat.image(state.x, state.point - state.x + step),
            mean=mean,
            square=square,
            found=logits.argmax(1) != state.y,
            candidate=state.point,
        )

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:
        return {
            "steps": self.steps,
            "alpha": "0.1 with Adam, a tenth of it from 1/2 of the steps on, a hundredth from 3/4 on",
            "start": "uniform",
            "restarts": self.restarts,
            "targets": self.targets,
            "objective": "targeted margin",
        }

    def _squares(self, gradient: Tensor, threat: Threat) -> Tensor:
        """Return what Adam's second mean averages, (L, C, H, W)."""
        squares = gradient**2
        if threat.geometry.bounds_numbers:
            return squares
        return squares.mean((1, 2, 3), keepdim=True).expand_as(squares)

    def _rate(self, state: SearchState) -> Tensor:
        drops = (2 * state.step >= self.steps).long() + (4 * state.step >= 3 * self.steps).long()  # (L,)
        return _RATE * 0.1 ** drops.to(state.x.dtype)
