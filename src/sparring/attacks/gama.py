"""GAMA-PGD: a margin of probabilities, guided to begin with by the distance from the clean prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import override

from sparring.attacks.attack import SearchAttack
from sparring.attacks.gradient import draw_start
from sparring.attacks.search import CountedModel, SearchState, initial_fields
from sparring.errors import BadInput
from sparring.losses import margin
from sparring.randomness import SampleStreams
from sparring.threat import Ratio, Threat, per_sample

_GUIDANCE = 50.0  # the weight of the distance in the first step


@dataclass(frozen=True)
class GAMAState(SearchState):
    """The state of GAMA."""

    clean: Tensor  # (L, K), the probabilities p(x) of the original images; never changes


@dataclass(frozen=True)
class GAMA(SearchAttack):
    """Ascends max_{j != y} p_j(x') - p_y(x') + w ||p(x') - p(x)||_2^2 (Sriramanan et al., NeurIPS 2020, GAMA-PGD).

    p is the softmax. The weight w falls linearly from 50 to 0 over the first quarter of the steps. They are steepest steps
    of size 2 eps, a tenth of that from 60% of the steps on and a hundredth from 85% on, from a start of +-eps (in L2: of
    that direction). An image is fooled by the first misclassified iterate, the start among them. The released code evaluates
    the last iterate only, and takes p(x) at the start of the attack instead of the clean image as the paper has it; its
    figures are of up to 5 restarts: `Restarted(GAMA(), 5)`.

    Args:
        steps: number of steps, at least 1.

    Raises:
        BadInput: fewer than 1 step.
    """

    state_type = GAMAState

    steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise BadInput(f"An attack needs at least 1 step, not {self.steps}.")

    @override
    @property
    def max_steps(self) -> int:
        return self.steps

    @override
    def init(
        self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat
    ) -> SearchState:
        start = draw_start("bernoulli", x, threat, threat.eps, streams)
        return GAMAState(**initial_fields(x, y, x + start), clean=clean.softmax(1))

    @override
    def step(self, model: CountedModel, state: SearchState, threat: Threat) -> SearchState:
        assert isinstance(state, GAMAState)
        weight, before, y = self._weight(state), state.clean, state.y

        def guided_margin(logits: Tensor) -> Tensor:
            now = logits.softmax(1)
            return margin(now, y) + weight * ((now - before) ** 2).sum(1)

        gradient, logits = model.gradient(state.point, guided_margin)
        step = per_sample(self._alpha(state, threat), state.x) * threat.steepest(gradient)
        point = threat.image(state.x, state.point - state.x + step)
        return replace(state, point=point, found=logits.argmax(1) != y, candidate=state.point)

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:
        alpha = Ratio(str(2 * threat.eps.exact))
        return {
            "steps": self.steps,
            "alpha": f"{alpha}, a tenth of it from 60% of the steps on, a hundredth from 85% on",
            "start": "bernoulli",
            "restarts": 1,
            "objective": "probability margin, guided with weight 50 falling to 0 over 25% of the steps",
        }

    def _weight(self, state: SearchState) -> Tensor:
        """Return w of the step to come, (L,)."""
        return _GUIDANCE * (1 - 4 * state.step.to(state.x.dtype) / self.steps).clamp_min(0)

    def _alpha(self, state: SearchState, threat: Threat) -> Tensor:
        """Return the size (L,) of the step to come."""
        drops = (100 * state.step >= 60 * self.steps).long() + (100 * state.step >= 85 * self.steps).long()
        return 2 * threat.eps * 0.1 ** drops.to(state.x.dtype)
