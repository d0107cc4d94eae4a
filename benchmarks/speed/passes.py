"""What passes of a network take at each level and batch size: forward, to the pixels, to the weights, an attack's ten.

    python -m benchmarks.speed.passes --levels eager graph compile compile+graph --batches 128 512 --json results/passes.json
    python -m benchmarks.speed.passes --width 16 --batches 32 --levels eager compile

Every training step is put together from these. Images are noise; a level that the device does not have is left out
with a word.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.harness import timing
from benchmarks.harness.command import read, status
from benchmarks.harness.ours import Ours, Precision, Way
from benchmarks.harness.record import save
from benchmarks.harness.scene import Scene
from sparring.attacks import attackable, input_gradient
from sparring.environment import environment
from sparring.learner import Learner
from sparring.losses import cross_entropy
from sparring.methods import Standard
from sparring.training import Runtime
from sparring.training.acceleration.cuda_graph import cudnn_benchmark
from sparring.training.cost import Operations

LEVELS = ("eager", "graph", "compile", "compile+graph")
Level = Literal["eager", "graph", "compile", "compile+graph"]
WARM_UPS = 3
ATTACK = 10  # passes for which BatchNorm is folded away once


@dataclass(frozen=True)
class Pass:
    """One kind of pass at one level and batch size."""

    kind: str
    level: str
    batch: int
    operations: int  # floating-point
    seconds: list[float]  # by round

    @property
    def tflops(self) -> float:
        """Median rate in TFLOP/s."""
        return self.operations / median(self.seconds) / 1e12


@cudnn_benchmark()
def measure(scene: Scene, level: Level, precision: Precision, rounds: int) -> list[Pass]:
    """Return the passes, warmed up; of several in a row on a GPU, where one is too short for a clock."""
    side = Ours(scene, Standard(), Way(precision, channels_last=True, level=level))
    works = _works(side.learner, scene)
    plain = _works(Ours(scene, Standard(), Way(precision, channels_last=True)).learner, scene)
    capturer, found = side.session.plan.capturer(side.device), []
    calls = 10 if side.device.type == "cuda" else 1
    for kind, work in works.items():
        with Operations() as counted:
            plain[kind]()
        once = work
        for _ in range(WARM_UPS):
            capturer.warm_up(work) if capturer else work()
        if capturer:
            once = capturer.capture(work)[0].replay
        several = _repeated(once, calls)
        several()
        times = [timing.seconds(several, side.device) / calls for _ in range(rounds)]
        found.append(Pass(kind, level, scene.batch, counted.total, times))
    return found


def _works(learner: Learner, scene: Scene) -> dict[str, Callable[[], object]]:
    device = next(learner.network.parameters()).device
    x = torch.rand((scene.batch, 3, scene.size, scene.size), device=device)
    y = torch.arange(scene.batch, device=device) % 10

    def objective(logits: Tensor) -> Tensor:
        return cross_entropy(logits, y)

    def forward() -> None:
        with torch.no_grad(), attackable(learner.attack_model, "train"):
            learner.attack_model(x)

    def pixels() -> None:
        with attackable(learner.attack_model, "train"):
            input_gradient(learner.attack_model, x, objective)

    def at_rest() -> None:
        with attackable(learner.attack_model, "eval"):
            for _ in range(ATTACK):
                input_gradient(learner.attack_model, x, objective)

    def weights() -> None:
        learner.zero_grad()
        learner.backward(objective(learner.model(x)).mean())

    return {
        "forward": forward,
        "forward, to the pixels": pixels,
        f"the same {ATTACK} times, BatchNorm at rest": at_rest,
        "forward, to the weights": weights,
    }


def _repeated(work: Callable[[], object], calls: int) -> Callable[[], None]:
    def several() -> None:
        for _ in range(calls):
            work()

    return several


def passes_table(found: Sequence[Pass], title: str) -> Table:
    """Return a row a pass."""
    table = timing.table(title, ("pass", "level"), ("batch", "ms", "least-most", "TFLOP/s", "images/s"))
    for one in found:
        images = f"{one.batch / median(one.seconds):.0f}"
        table.add_row(
            one.kind, one.level, str(one.batch), *timing.milliseconds(one.seconds), f"{one.tflops:.3g}", images
        )
    return table


def run(arguments: argparse.Namespace) -> None:
    """Measure what was asked for, record it, and print the table."""
    precision: Precision = 32 if arguments.precision == "32" else "bf16-mixed"
    found: list[Pass] = []
    facts = environment()
    on_gpu = Runtime(arguments.device).fabric().device.type == "cuda"
    for batch in arguments.batches:
        scene = Scene(arguments.model, arguments.width, batch, accelerator=arguments.device)
        for level in arguments.levels:
            if "graph" in level and not on_gpu:
                timing.say(f"{level}: needs a GPU, left out")
                continue
            timing.say(f"batch {batch}, {level}")
            found += measure(scene, level, precision, arguments.rounds)
            save("passes", arguments, facts, passes=[asdict(one) for one in found])
    title = f"{arguments.model}, {arguments.precision}, {timing.hardware(facts, Runtime(arguments.device))}"
    Console().print(passes_table(found, title), highlight=False)


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="resnet18", help="any name of sparring.models.create (default: %(default)s)")
    add("--width", type=int, help="channels of the first stage (default: the paper's)")
    add("--batches", nargs="+", type=int, default=[128, 512, 1024], help="images a pass (default: 128 512 1024)")
    add("--levels", nargs="+", choices=LEVELS, default=LEVELS, help="default: all that the device has")
    add("--precision", choices=("32", "bf16-mixed"), default="bf16-mixed", help="default: %(default)s")
    add("--rounds", type=int, default=7, help="timed rounds (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    return status(lambda: run(read(parser, words, "rounds")))


if __name__ == "__main__":
    sys.exit(main())
