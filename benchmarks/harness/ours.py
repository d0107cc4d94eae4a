"""Our side of a measurement: a method in training as in a run, in one of several ways to compute."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal, TypeAlias
from unittest import mock

import torch
from lightning_fabric import Fabric
from torch import nn

from benchmarks.harness.scene import SEED, THREAT, Scene
from sparring.data import Draw
from sparring.learner import Learner
from sparring.methods import LAS, SDI, Method
from sparring.training import Runtime, Session
from sparring.training import session as assembly
from sparring.training.acceleration import plan as levels
from sparring.training.acceleration.plan import LevelName
from sparring.training.statistics import EpochStatistics

WARM_UP = 5  # steps of a kind before a clock runs: two warm-ups of a captured one, the capture, and some more

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
    """Return the network compiled with one backward pass for everything, as `torch.compile` does by itself."""
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
        data = scene.data(fabric.device)
        with _assembled(way):
            self.session = Session(
                method,
                scene.network(),
                data,
                THREAT,
                scene.optimisation,
                runtime,
                seed=SEED,
                held_out=scene.batch,  # CAT asks for some, and looks at them between epochs only
                fabric=fabric,
            )
        self._wanted = way.level
        self.session.begin_epoch()
        # The run stays in its first epoch, whatever it is shown.
        self._draws = (draw for epoch in count() for draw in data.draws(epoch))
        self._statistics = EpochStatistics(self.device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.session.device

    @property
    def method(self) -> Method:
        """What is being trained with."""
        return self.session.method

    @property
    def learner(self) -> Learner:
        """What is being trained."""
        return self.session.learner

    @property
    def captures(self) -> int:
        """How many kinds of steps are replayed."""
        return self.session.replayer.captures if self.session.replayer else 0

    @property
    def level(self) -> str:
        """The level that steps are taken at, whatever was asked for."""
        plan, replayer = self.session.plan, self.session.replayer
        return replace(plan, captured=plan.captured and not (replayer and replayer.refusal)).name

    @property
    def refusal(self) -> str:
        """Why it is another level than was asked for; empty where it is that one."""
        if self.level == self._wanted:
            return ""
        plan, replayer = self.session.plan, self.session.replayer
        return "; ".join(
            filter(None, (plan.reason * (plan.name != self._wanted), replayer.refusal if replayer else ""))
        )

    @property
    def interval(self) -> int:
        """From one step in which a generator or a policy learns to the next; 1 where all steps are alike."""
        return self.method.interval if isinstance(self.method, SDI | LAS) else 1

    def draw(self) -> Draw:
        """Return what stands for the next batch; an epoch's first has the epoch's order brought to the device."""
        return next(self._draws)

    def step(self, draw: Draw | None = None) -> None:
        """Gather and augment the next batch, or the one of this draw, train on it, count loss and accuracy."""
        step = self.session.step(self.draw() if draw is None else draw)
        self._statistics.add(step.loss, step.batch.y)

    def warm_up(self) -> None:
        """Take steps until nothing happens for the first time any more: one if all are live, else some of each kind."""
        self.steps(1 if self.level == "eager" else WARM_UP * self.interval)()

    def steps(self, number: int) -> Callable[[], None]:
        """Return a function that takes so many of them in a row."""

        def several() -> None:
            for _ in range(number):
                self.step()

        return several


@contextmanager
def _assembled(way: Way) -> Iterator[None]:
    """Set what runs cannot choose, for comparisons: a compiler of another kind, and attacks through whole BatchNorms."""
    with ExitStack() as replaced:
        if way.compiler is not None:
            replaced.enter_context(mock.patch.object(levels, "Compiler", return_value=way.compiler))
        if not way.folds:
            replaced.enter_context(mock.patch.object(assembly, "foldable", return_value=()))
        yield


def in_variants(scene: Scene, make: Callable[[], Method], variants: Iterable[str]) -> dict[str, Ours]:
    """Return our side by variant; fp32 is always among them."""
    sides = {name: Ours(scene, make(), VARIANTS[name]) for name in dict.fromkeys(["fp32", *variants])}
    for side in sides.values():
        if side.level != "eager":
            side.steps(WARM_UP)()
    return sides


def refusals(sides: Mapping[str, Ours]) -> dict[str, str]:
    """Return by variant why its steps are not taken at its level, for those that are not."""
    return {name: f"{side.level}, as {side.refusal}" for name, side in sides.items() if side.refusal}


@contextmanager
def double_precision() -> Iterator[None]:
    """Make float64 PyTorch's default, so also that of Fabric's outputs and of memories."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(kept)


def add_variants(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how our side computes."""
    parser.add_argument(
        "--variants",
        nargs="*",
        choices=VARIANTS,
        default=["channels-last"],
        metavar="NAME",
        help=f"how ours computes, of {', '.join(VARIANTS)}; fp32 always runs (default: channels-last)",
    )
