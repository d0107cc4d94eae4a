"""The two sides of the comparisons: our step as in a run, and another's on the same batches from the same weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal, TypeAlias

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from research.habits import Draws, Minibatch, Script
from scene import OPTIMISATION, THREAT, Scene
from sparring.data import Batch
from sparring.learner import Learner
from sparring.methods import Method
from sparring.methods.policy import Distribution
from sparring.models import foldable
from sparring.randomness import normal, rademacher, uniform
from sparring.training import Runtime
from sparring.training.level import LevelName, Work
from sparring.training.stepper import Stepper
from sparring.training.tally import Tally

ENDLESS = 1_000_000_000  # optimizer steps of the run that we pretend to be in, so that its schedule stands still

WARM_UP = 5  # steps before a clock runs: two rehearsals of a recorded step, the recording, and some more
CHECKED_STEPS = 6  # after the fourth, an epoch's images come again, and with them what was remembered of them

Precision: TypeAlias = Literal[32, "bf16-mixed", 64]


@dataclass(frozen=True)
class Way:
    """A way for our side to compute."""

    precision: Precision = 32
    channels_last: bool = False
    level: LevelName = "eager"
    compiler: Callable[[nn.Module], Any] | None = None  # None is the level's
    folds: bool = True  # BatchNorm in attacks in evaluation mode
    compact: bool | None = None  # whether images whose attack is finished leave; None is the device's

    @property
    def mark(self) -> str:
        """What says that it is not equal mathematics."""
        return "*" if self.precision == "bf16-mixed" else ""


def as_pytorch_does(network: nn.Module) -> Any:
    """Compiled with one backward pass for everything, as `torch.compile` does by itself."""
    torch._functorch.config.donated_buffer = False  # MEP goes through a graph twice
    return torch.compile(network, dynamic=False)


VARIANTS = {
    "fp32": Way(),
    "unfolded": Way(folds=False),
    "channels-last": Way(channels_last=True),
    "channels-last-unfolded": Way(channels_last=True, folds=False),
    "compile": Way(channels_last=True, level="compile"),
    "compile-as-pytorch": Way(channels_last=True, level="compile", compiler=as_pytorch_does),
    "bf16": Way("bf16-mixed"),
    "bf16-channels-last": Way("bf16-mixed", channels_last=True),
    "bf16-compile": Way("bf16-mixed", channels_last=True, level="compile"),
    "bf16-graph": Way("bf16-mixed", channels_last=True, level="graph"),
    "bf16-compile-graph": Way("bf16-mixed", channels_last=True, level="compile+graph"),
}


class Ours:
    """Our side: a method in training, fed from a set on the device, as in a run."""

    def __init__(self, scene: Scene, method: Method, way: Way = Way()) -> None:
        precision = 32 if way.precision == 64 else way.precision
        runtime = Runtime(scene.accelerator, precision, way.level, way.compact, way.channels_last)
        fabric = runtime.fabric()
        if way.precision == 64:
            fabric = Fabric(accelerator=fabric.device.type, devices=1, precision="64-true")
        self.device, self.method = fabric.device, method
        network = runtime.arrange(scene.network())
        plan = runtime.plan(self.device, method, network, Work(lambda: 0.0, lambda: 0.0))
        folds = foldable(network, (3, scene.size, scene.size)) if way.folds else ()
        self.learner = Learner(
            network, OPTIMISATION, fabric, ENDLESS, compiler=way.compiler or plan.compiler(), folds=folds
        )
        self.learner.network.train()
        method.setup(replace(scene.task(self.device), compact=runtime.compacts(self.device, plan)))
        method.begin_epoch(0)
        self.batches = scene.batches(self.device)
        data = scene.data(self.device)
        self.stepper = Stepper(method, self.learner, data, plan.recorder(self.device))
        self._draws = (draw for epoch in count() for draw in data.draws(epoch))
        self._tally = Tally(self.device)

    def step(self) -> None:
        """Gather and augment the next batch, train on it, count loss and accuracy."""
        taken = self.stepper.take(next(self._draws))
        self._tally.add(taken.step.loss, taken.batch.y)

    def steps(self, number: int) -> Callable[[], None]:
        """So many of them in a row."""

        def several() -> None:
            for _ in range(number):
                self.step()

        return several


def in_variants(scene: Scene, make: Callable[[], Method], variants: Iterable[str]) -> dict[str, Ours]:
    """Our side by variant; fp32 is always among them."""
    sides = {name: Ours(scene, make(), VARIANTS[name]) for name in dict.fromkeys(["fp32", *variants])}
    for name, side in sides.items():
        if VARIANTS[name].level != "eager":
            side.steps(WARM_UP)()
    return sides


class OurDraws(Draws):
    """The numbers that our methods draw, for a research step that is to draw the same ones from the same seed."""

    def uniform(self, like: Tensor, radius: float) -> Tensor:
        """See `Draws`."""
        return THREAT.draw(like, radius)

    def normal(self, like: Tensor, deviation: float) -> Tensor:
        """See `Draws`."""
        return deviation * normal(like)

    def signs(self, like: Tensor, size: float) -> Tensor:
        """See `Draws`."""
        return size * rademacher(like)

    def fractions(self, like: Tensor, count: int) -> list[float]:
        """See `Draws`."""
        return uniform(like.new_zeros(count)).tolist()

    def actions(self, scores: Tensor) -> Tensor:
        """See `Draws`."""
        return Distribution.of(scores, {"head": scores.shape[1]}).sample()["head"]


def minibatch(batch: Batch) -> Minibatch:
    """A batch of ours as a loader of the scripts hands it over."""
    view = batch.view
    crops = list(zip(view.top.tolist(), view.left.tolist(), view.flip.tolist(), strict=True))
    return Minibatch(batch.x, batch.y, batch.index, crops)


@contextmanager
def double_precision() -> Iterator[None]:
    """float64 as PyTorch's default, so also of Fabric's outputs and of memories."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(kept)


@dataclass(frozen=True)
class Corner:
    """What another's step is made from: a network like ours, and our method before its first step."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    method: Method
    scene: Scene
    draws: Draws

    def script(self, script: Callable[..., Script], *settings: object, **more: object) -> Script:
        """Of a research step's class: one for this network and radius."""
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
        self.script = pair.theirs(Corner(self.network, optimizer_of(self.network), ours.method, scene, draws))
        self._batches = scene.batches(ours.device)

    def ready(self) -> Callable[[], None]:
        """The next step, its batch at hand."""
        batch = minibatch(next(self._batches))
        return lambda: self.script.step(batch)


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    """PyTorch's plain SGD with our settings."""
    options = OPTIMISATION
    return torch.optim.SGD(
        network.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )


def together(pair: Pair, scene: Scene, steps: int = CHECKED_STEPS) -> tuple[Ours, Rival]:
    """Both sides after as many steps with the same draws: in double precision, as rounding turns signs of gradients."""
    ours = Ours(scene, pair.ours(scene), Way(64))
    rival = Rival(pair, scene, ours, OurDraws())
    for seed in range(steps):
        theirs = rival.ready()
        for work in (ours.step, theirs):
            torch.manual_seed(seed)
            work()
    return ours, rival


def difference(pair: Pair, scene: Scene) -> float:
    """|ours - theirs| of the networks relative to how far they have moved: the largest of any tensor after some steps.

    In double precision, on the scene's device, and on few small images and a narrow network, as it costs much there.
    """
    small = Scene(width=4, batch=pair.batch, size=16, accelerator=scene.accelerator)
    with double_precision():
        ours, rival = together(pair, small)
        return apart(ours.learner.network, rival.network, small.network())


def apart(one: nn.Module, other: nn.Module, before: nn.Module) -> float:
    """|one - other| / |other - before|, the largest of any tensor; infinite where one differs without having moved."""
    ends, starts = other.state_dict(), before.state_dict()
    shares = []
    for name, tensor in one.state_dict().items():
        moved = (ends[name] - starts[name].to(tensor.device)).double().norm()
        gap = (tensor - ends[name]).double().norm()
        shares.append(torch.where(gap == 0, 0.0, gap / moved))
    return float(torch.stack(shares).max())


def add_variants(parser: argparse.ArgumentParser) -> None:
    """The option that says how our side computes."""
    parser.add_argument(
        "--variants",
        nargs="*",
        choices=VARIANTS,
        default=["channels-last"],
        metavar="NAME",
        help=f"how ours computes, of {', '.join(VARIANTS)}; fp32 always runs (default: channels-last)",
    )
