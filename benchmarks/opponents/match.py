"""Another's step beside ours: on the same batches, from the same weights, and the check that both compute the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from benchmarks.harness.ours import Ours, Way, double_precision
from benchmarks.harness.scene import SEED, THREAT, Scene
from benchmarks.opponents.research.habits import Draws, Minibatch, Script
from sparring.data import Batch
from sparring.methods import Method
from sparring.methods.policy import Distribution
from sparring.randomness import normal, rademacher, seed_from, uniform

CHECKED_STEPS = 6  # after the fourth, an epoch's images come again, and with them what was remembered of them
TOLERANCE = 1e-9  # largest difference of a tensor after the steps of the check, relative to how far they moved it


class Unequal(Exception):
    """The two sides do not compute the same, so that comparing their speed would mean nothing."""


class OurDraws(Draws):
    """The numbers that our methods draw, for a research step that is to draw the same ones from the same seed."""

    @override
    def uniform(self, like: Tensor, radius: float) -> Tensor:
        return THREAT.draw(like, radius)

    @override
    def normal(self, like: Tensor, deviation: float) -> Tensor:
        return deviation * normal(like)

    @override
    def signs(self, like: Tensor, size: float) -> Tensor:
        return size * rademacher(like)

    @override
    def fractions(self, like: Tensor, count: int) -> list[float]:
        return uniform(like.new_zeros(count)).tolist()

    @override
    def actions(self, scores: Tensor) -> Tensor:
        return Distribution.of(scores, {"head": scores.shape[1]}).sample()["head"]


def minibatch(batch: Batch) -> Minibatch:
    """Return a batch of ours as a loader of the scripts hands it over."""
    view = batch.view
    crops = list(zip(view.top.tolist(), view.left.tolist(), view.flip.tolist(), strict=True))
    return Minibatch(batch.x, batch.y, batch.index, crops)


@dataclass(frozen=True)
class Corner:
    """What another's step is made from: a network like ours, and our method before its first step."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    method: Method
    scene: Scene
    draws: Draws

    def script(self, script: Callable[..., Script], *settings: object, **more: object) -> Script:
        """Return a script of a research step's class for this network and radius."""
        return script(self.network, self.optimizer, float(THREAT.eps), *settings, draws=self.draws, **more)


@dataclass(frozen=True)
class Pair:
    """A method of ours, and another's step."""

    ours: Callable[[Scene], Method]
    theirs: Callable[[Corner], Script]
    batch: int = 8  # images of the check


class Rival:
    """The other side, on the same batches, from the same weights and memories."""

    def __init__(self, pair: Pair, scene: Scene, ours: Ours, draws: Draws) -> None:
        self.network = scene.network().to(ours.device).train()
        self.script = pair.theirs(Corner(self.network, scene.optimizer(self.network), ours.method, scene, draws))
        self._batches = scene.batches(ours.device)

    def ready(self) -> Callable[[], None]:
        """Return the next step, its batch at hand."""
        batch = minibatch(next(self._batches))
        return lambda: self.script.step(batch)


def together(pair: Pair, scene: Scene, steps: int = CHECKED_STEPS) -> tuple[Ours, Rival]:
    """Return both sides after as many steps with the same draws, in double precision: rounding turns gradients' signs."""
    ours = Ours(scene, pair.ours(scene), Way(64))
    rival = Rival(pair, scene, ours, OurDraws())
    for _ in range(steps):
        theirs, seed = rival.ready(), seed_from(SEED, ours.learner.steps)  # as the session seeds its step
        ours.step()
        torch.manual_seed(seed)
        theirs()
    return ours, rival


def difference(pair: Pair, scene: Scene) -> float:
    """Return |ours - theirs| of the networks relative to how far they have moved: the largest of any tensor.

    In double precision, on the scene's device, and on few small images and a narrow network, as it costs much there.
    """
    small = Scene(width=4, batch=pair.batch, size=16, accelerator=scene.accelerator)
    with double_precision():
        ours, rival = together(pair, small)
        return apart(ours.learner.network, rival.network, small.network())


def check(name: str, found: float) -> None:
    """Raise Unequal where this `difference` is too large."""
    if not found <= TOLERANCE:  # also refuses nan
        raise Unequal(f"{name}: after some steps the two sides differ by {found:.1e}, more than {TOLERANCE:.0e}.")


def apart(one: nn.Module, other: nn.Module, before: nn.Module) -> float:
    """Return |one - other| / |other - before|, the largest of any tensor; infinite where one differs and has not moved."""
    ends, starts = other.state_dict(), before.state_dict()
    shares = []
    for name, tensor in one.state_dict().items():
        moved = (ends[name] - starts[name].to(tensor.device)).double().norm()
        gap = (tensor - ends[name]).double().norm()
        shares.append(torch.where(gap == 0, 0.0, gap / moved))
    return float(torch.stack(shares).max())
