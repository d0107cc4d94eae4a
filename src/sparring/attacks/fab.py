"""FAB: walks along the decision boundary towards the original image, so it needs neither a radius nor a step size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from typing_extensions import override

from sparring.attacks.attack import SearchAttack
from sparring.attacks.hyperplane import way_to_hyperplane
from sparring.attacks.search import CountedModel, SearchState, initial_fields, ranked
from sparring.errors import BadInput
from sparring.losses import targeted_margin
from sparring.randomness import SampleStreams
from sparring.threat import Threat, per_sample

_SMALL = 1e-12  # keeps the distance to a plane without a slope finite
_SHORT = 1e-8  # the least length of a way, so that two ways of length 0 can be compared


@dataclass(frozen=True)
class FABState(SearchState):
    """The state of walks."""

    target: Tensor  # (L,), the class to be reached; the label itself where any class will do; never changes
    crossed: Tensor  # (L,) bool, whether `point` is misclassified: then the next step begins nearer to x


@dataclass(frozen=True)
class FAB(SearchAttack):
    """The fast adaptive boundary attack: seeks the nearest misclassified image (Croce and Hein, ICML 2020, Algorithm 1).

    Each step takes the boundary to be flat, projects the walk's point and the image onto it, moves a little beyond a mixture
    of the two, and from a misclassified point goes back towards the image. An image is fooled as soon as a misclassified
    point lies within eps. As in AutoAttack, no search along a line follows at the end.

    Args:
        steps: number of steps, at least 1.
        targets: how many classes are tried, one after the other: the most likely wrong ones of the image, all of them if
            there are fewer. None heads, in each step, for the nearest boundary of all, at one backward pass a class.
        restarts: walks for each target; the first begins at the image, later ones at random, eps / 2 away.
        alpha_max: the largest share of the image's own projection in the mixture.
        eta: how far beyond the boundary to go; 1 stops at it.
        beta: how much of its way from the image a misclassified point keeps.

    Raises:
        BadInput: fewer than 1 step, target or restart; shares outside of [0, 1]; an eta below 1.
    """

    steps: int = 100
    targets: int | None = 9
    restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    state_type = FABState

    def __post_init__(self) -> None:
        super().__post_init__()
        for count, kind in ((self.steps, "step"), (self.targets, "target"), (self.restarts, "restart")):
            if count is not None and count < 1:
                raise BadInput(f"FAB needs at least 1 {kind}, not {count}.")
        for share, name in ((self.alpha_max, "alpha_max"), (self.beta, "beta")):
            if not 0 <= share <= 1:
                raise BadInput(f"FAB's {name} is a share: it must lie in [0, 1], not be {share}.")
        if self.eta < 1:
            raise BadInput(f"FAB's eta must be at least 1, not {self.eta}: below, no point gets to the boundary.")

    @override
    @property
    def max_steps(self) -> int:
        return self.steps

    @override
    def attempts(self, classes: int) -> int:  # all restarts for one target, then the next
        return self.restarts * (1 if self.targets is None else min(self.targets, classes - 1))

    @override
    def init(
        self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat
    ) -> FABState:
        rank, restart = divmod(attempt, self.restarts)
        target = y if self.targets is None else ranked(clean, 1 + rank)
        point = x if restart == 0 else (x + _half_way_out(x, streams, threat)).clamp(0, 1)
        return FABState(**initial_fields(x, y, point), target=target, crossed=torch.zeros_like(y, dtype=torch.bool))

    @override
    def step(self, model: CountedModel, state: SearchState, threat: Threat) -> FABState:
        assert isinstance(state, FABState)
        x, reached = state.x, state.point
        here = torch.where(per_sample(state.crossed, x), x + self.beta * (reached - x), reached)
        excess, w = self._boundary(model, here, state, threat)
        excess_at_x = excess + (w * (x - here)).flatten(1).sum(1)
        ways = way_to_hyperplane(
            torch.cat([here, x]).flatten(1),
            torch.cat([w, w]).flatten(1),
            torch.cat([excess, excess_at_x]),
            threat.norm,
        ).view(2, *x.shape)
        length, length_from_x = threat.size(ways.flatten(0, 1)).clamp_min(_SHORT).chunk(2)
        alpha = per_sample((length / (length + length_from_x)).clamp_max(self.alpha_max), x)
        beyond, beyond_from_x = torch.stack([here, x]) + self.eta * ways
        point = ((1 - alpha) * beyond + alpha * beyond_from_x).clamp(0, 1)

        # The mixture's own label: its gradient is taken a step later, and elsewhere if it is misclassified.
        crossed = model.logits(point).argmax(1) != state.y
        found = crossed & (threat.size(point - x) <= threat.eps)
        return replace(state, point=point, found=found, candidate=point, crossed=crossed)

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:
        return {
            "steps": self.steps,
            "targets": "all" if self.targets is None else self.targets,
            "restarts": self.restarts,
            "start": "zero",
            "objective": "fab",
        }

    def _boundary(self, model: CountedModel, point: Tensor, state: FABState, threat: Threat) -> tuple[Tensor, Tensor]:
        """Return z_s - z_y (L,) at the points, and its gradient (L, C, H, W): s is the target, or the nearest class."""
        if self.targets is None:
            return _nearest(*model.jacobian(point), state.y, threat)
        margin = partial(targeted_margin, y=state.y, target=state.target)
        gradient, logits = model.gradient(point, margin)
        return margin(logits), gradient


def _nearest(gradients: Tensor, logits: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
    """Return z_s - z_y (L,) and its gradient (L, C, H, W) for the class s whose flat boundary is nearest, without the box.

    s minimises |z_s - z_y| / ||grad (z_s - z_y)||_dual over s != y (Croce and Hein, ICML 2020), from the gradients
    (L, K, C, H, W) of the logits (L, K).
    """
    row = torch.arange(len(y), device=y.device)
    margins = logits - logits[row, y][:, None]
    slopes = gradients - gradients[row, y][:, None]
    distances = margins.abs() / (_SMALL + threat.geometry.dual_size(slopes.flatten(2)))
    nearest = distances.scatter(1, y[:, None], torch.inf).argmin(1)
    return margins[row, nearest], slopes[row, nearest]


def _half_way_out(x: Tensor, streams: SampleStreams, threat: Threat) -> Tensor:
    """Return perturbations (L, C, H, W) of size eps / 2 in random directions; the pixel box is not applied."""
    direction = threat.geometry.direction(x, streams)
    return threat.eps / 2 * direction / per_sample(threat.size(direction).clamp_min(_SMALL), x)
