"""APGD: projected gradient ascent with momentum whose step size halves itself where the loss no longer rises.

In L1 it is another ascent (`apgd_l1.py`) on the same objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from sparring.attacks import apgd_l1
from sparring.attacks.apgd_l1 import SparseState, Stages
from sparring.attacks.attack import SearchAttack
from sparring.attacks.search import CountedModel, Search, SearchState, TargetedState, initial_fields, ranked
from sparring.errors import BadInput
from sparring.losses import cross_entropy, dlr, margin, targeted_dlr, targeted_margin
from sparring.norms import NormName, by_norm
from sparring.randomness import SampleStreams, normal
from sparring.threat import Threat, per_sample

_INERTIA = 0.75  # share of the new step in a move; the rest goes on as the last one did


@dataclass(frozen=True)
class APGDState(TargetedState):
    """The state of ascents with momentum."""

    last: Tensor  # (L, C, H, W), where the last move began
    best: Tensor  # (L, C, H, W), the point of the greatest loss so far
    best_gradient: Tensor  # (L, C, H, W), there
    best_loss: Tensor  # (L,)
    loss: Tensor  # (L,), at the last point but one; 0 for the first, see `APGD`
    eta: Tensor  # (L,), step size
    rises: Tensor  # (L,), how often the loss rose since the last checkpoint
    checked_loss: Tensor  # (L,), best loss at the last checkpoint
    halved: Tensor  # (L,) bool, whether the last checkpoint halved the step size


@dataclass(frozen=True)
class APGD(SearchAttack):
    """Auto-PGD (Croce and Hein, ICML 2020, algorithm 1), as their released code runs it in AutoAttack.

    Where the released code and the algorithm differ, the code is followed: the first point after the start counts as a
    rise if its loss is positive (of cross-entropy always, of DLR never), as the list of losses begins with a zero; and the
    momentum after a return to the best point is taken from the point that was left.

    In L1 it is the sparse ascent of "Mind the box" (Croce and Hein, ICML 2021): see `SparseAPGD`.

    Args:
        objective: ce (cross-entropy), dlr, or margin (the difference of logits, for fewer classes than DLR needs).
        targets: how many wrong classes are aimed at, one an attempt, in the order of the clean logits; None aims at
            none. Never more than there are wrong classes; not for ce.
        steps: gradients of an attempt, at least 1.
        restarts: attempts, for each target where there are any.
        eot: passes that a gradient is averaged over, for randomised networks.
        rho: the share of rises, in (0, 1), that a step size must achieve to be kept; not used in L1.
        shrinking: only in L1, whether most of the steps are made in balls of three and two times the radius.

    Raises:
        BadInput: numbers outside these ranges; targets for ce. On use: dlr for fewer than 3 classes, or with targets
            fewer than 4; shrinking in another norm than L1.
    """

    state_type = APGDState

    objective: Literal["ce", "dlr", "margin"] = "ce"
    targets: int | None = None
    steps: int = 100
    restarts: int = 1
    eot: int = 1
    rho: float = 0.75
    shrinking: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "restarts", "eot"):
            if getattr(self, name) < 1:
                raise BadInput(f"APGD needs {name} of at least 1, not {getattr(self, name)}.")
        if self.targets is not None and (self.targets < 1 or self.objective == "ce"):
            raise BadInput(
                f"APGD cannot aim at {self.targets} classes by {self.objective}: give 1 or more, for dlr or margin."
            )
        if not 0 < self.rho < 1:
            raise BadInput(f"rho is a share in (0, 1), not {self.rho}.")

    @override
    @property
    def max_steps(self) -> int:
        return self.steps

    @override
    def searches(self, classes: int, threat: Threat) -> Mapping[str, Search]:
        return {"": by_norm(_ASCENTS, threat.norm, "APGD")(self)}

    @override
    def attempts(self, classes: int) -> int:  # all restarts of a target come before the next target
        needed = 4 if self.targets else 3
        if self.objective == "dlr" and classes < needed:
            raise BadInput(f"DLR needs {needed} classes, the model knows {classes}: use the objective margin.")
        return self.restarts * (min(self.targets, classes - 1) if self.targets else 1)

    @override
    def init(
        self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat
    ) -> SearchState:
        # The start has a random direction and, before the box, the full radius.
        by_norm(_MOMENTUM, threat.norm, "APGD with momentum")
        noise = threat.geometry.direction(x, streams)
        start = (x + threat.eps * noise / per_sample(threat.size(noise), x)).clamp(0, 1)
        nothing = x.new_zeros(len(x))
        return APGDState(
            **initial_fields(x, y, start),
            target=self.target(y, clean, attempt),
            last=start,
            best=start,
            best_gradient=torch.zeros_like(x),
            best_loss=nothing - torch.inf,
            loss=nothing,
            eta=nothing + 2 * threat.eps,
            rises=nothing,
            checked_loss=nothing,
            halved=torch.ones_like(y, dtype=torch.bool),
        )

    @override
    def step(self, model: CountedModel, state: SearchState, threat: Threat) -> SearchState:
        assert isinstance(state, APGDState)
        gradient, logits, loss = self.measure(model, state)
        state = replace(state, found=logits.argmax(1) != state.y, candidate=state.point)
        state, origin, gradient = self._reconsidered(_improved(state, loss, gradient), gradient)
        first = per_sample(state.step == 0, origin)
        ahead = threat.image(state.x, origin + per_sample(state.eta, origin) * threat.steepest(gradient) - state.x)
        new = torch.where(first, ahead - origin, _INERTIA * (ahead - origin))
        old = torch.where(first, 0, (1 - _INERTIA) * (origin - state.last))
        return replace(state, point=threat.image(state.x, origin + new + old - state.x), last=origin)

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:
        settings: dict[str, str | int] = {
            "steps": self.steps,
            "start": "surface",
            "restarts": self.restarts,
            "objective": self.objective,
        }
        return (
            settings | ({"targets": self.targets} if self.targets else {}) | ({"eot": self.eot} if self.eot > 1 else {})
        )

    def target(self, y: Tensor, clean: Tensor, attempt: int) -> Tensor:
        """Return the classes (L,) that attempts of this number aim at; the labels where they aim at none."""
        return ranked(clean, 1 + attempt // self.restarts) if self.targets else y

    def measure(self, model: CountedModel, state: TargetedState) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient, a mean over `eot` passes, and the last pass's logits and losses, at the points."""
        value = self._loss(state)
        gradient, logits = model.gradient(state.point, value)
        for _ in range(self.eot - 1):
            another, logits = model.gradient(state.point, value)
            gradient = gradient + another
        return gradient / self.eot, logits, value(logits)

    def _loss(self, state: TargetedState) -> Callable[[Tensor], Tensor]:
        if self.objective == "ce":
            return partial(cross_entropy, y=state.y)
        if self.targets:
            targeted = targeted_dlr if self.objective == "dlr" else targeted_margin
            return partial(targeted, y=state.y, target=state.target)
        return partial(dlr if self.objective == "dlr" else margin, y=state.y)

    def _reconsidered(self, state: APGDState, gradient: Tensor) -> tuple[APGDState, Tensor, Tensor]:
        """Return the state, the points to step from and the gradients there.

        At a checkpoint where progress was poor, halve the step size and go back to the best point; else go on from here.
        """
        windows = torch.tensor(checkpoint_windows(self.steps), device=state.step.device)
        window = windows[state.step.clamp_max(self.steps)]
        here = window > 0
        poor = (state.rises <= self.rho * window) | (~state.halved & (state.checked_loss >= state.best_loss))
        halve = here & poor
        back = per_sample(halve, state.x)
        checked = replace(
            state,
            eta=torch.where(halve, state.eta / 2, state.eta),
            rises=torch.where(here, 0, state.rises),
            checked_loss=torch.where(here, state.best_loss, state.checked_loss),
            halved=torch.where(here, halve, state.halved),
        )
        return checked, torch.where(back, state.best, state.point), torch.where(back, state.best_gradient, gradient)


@dataclass(frozen=True)
class SparseAPGD(SearchAttack):
    """APGD in L1 (Croce and Hein, ICML 2021, "Mind the box"), as the released code runs it in AutoAttack.

    A step shares its size out among the numbers of the greatest slopes, and the projection onto ball and box is exact. At
    every checkpoint, each 4% of the moves, the next steps change 1.5 times fewer numbers than the best point has changed;
    where it has become sparser they have the size of the radius again and go on from there, elsewhere they shrink by 1.5, to
    a tenth of the radius. With `shrinking` 30% of the moves are made in a ball of three times the radius and 30% in one of
    twice the radius, each beginning at the best point of the ball before; what fools there does not count. In such short
    balls the released code's checkpoints are one move apart, and so are these.

    It differs in one thing. The released code counts a number as changed, too, if rounding is all that is left of the
    change, as in some 5 to 10% of those that its projection gives up; here it must have changed by more than 1e-6.

    Args:
        settings: objective, targets, steps, restarts, eot and shrinking.
    """

    state_type = SparseState

    settings: APGD

    @override
    @property
    def max_steps(self) -> int:
        return self._stages.steps

    @override
    def attempts(self, classes: int) -> int:
        return self.settings.attempts(classes)

    @override
    def init(
        self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat
    ) -> SearchState:
        # The start is the image of the first ball that is nearest to Gaussian noise.
        target = self.settings.target(y, clean, attempt)
        start = threat.image(x, normal(x, streams), self._stages.factors[0] * threat.eps)
        return apgd_l1.initial(initial_fields(x, y, start), target, threat, self._stages)

    @override
    def step(self, model: CountedModel, state: SearchState, threat: Threat) -> SearchState:
        assert isinstance(state, SparseState)
        return apgd_l1.step(state, *self.settings.measure(model, state), threat, self._stages)

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:
        radii = {"radii": "3 eps, 2 eps, eps"} if self.settings.shrinking else {}
        return self.settings.describe(threat) | {"start": "projected noise"} | radii

    @property
    def _stages(self) -> Stages:
        return Stages.of(self.settings.steps, self.settings.shrinking)


def _with_momentum(attack: APGD) -> Search:
    if attack.shrinking:
        raise BadInput("APGD shrinks the ball only in L1: leave shrinking out.")
    return attack


_MOMENTUM: dict[NormName, Callable[[APGD], Search]] = {"Linf": _with_momentum, "L2": _with_momentum}
_ASCENTS: dict[NormName, Callable[[APGD], Search]] = _MOMENTUM | {"L1": SparseAPGD}


def _improved(state: APGDState, loss: Tensor, gradient: Tensor) -> APGDState:
    """Return the state with the point's loss (L,) in it."""
    first = state.step == 0
    better = loss > state.best_loss
    images = per_sample(better, state.x)
    return replace(
        state,
        best=torch.where(images, state.point, state.best),
        best_gradient=torch.where(images, gradient, state.best_gradient),
        best_loss=torch.where(better, loss, state.best_loss),
        rises=state.rises + (~first & (loss > state.loss)),
        loss=torch.where(first, 0, loss),
        checked_loss=torch.where(first, loss, state.checked_loss),
    )


def checkpoint_windows(steps: int) -> list[int]:
    """Return, for each number of moves 0 .. steps, how many moves a checkpoint there looks back on; 0 where there is none.

    The first window is 22% of the steps, each next one 3% shorter, down to 6% (section 3.3 of the paper): for 100 steps
    the checkpoints are 22, 41, 57, 70, 80, 87, 93 and 99.
    """
    window, least, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    windows, at = [0] * (steps + 1), window
    while at <= steps:
        windows[at] = window
        window = max(window - shrink, least)
        at += window
    return windows
