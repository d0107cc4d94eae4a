"""What a training step costs, for every method and at every level of speed. Synthetic images; CPU or GPU.

    python -m benchmarks.speed.cost --json results/speed.json             # every method, the default level
    python -m benchmarks.speed.cost --methods mep --levels eager compile --width 16 --batch 32 --steps 3

Counted: forward passes, operators around the network, operators that make the host wait. Timed: a step, and with it images a
second, the rate of operations and its share of the machine's best (`ceilings.py`). How to read the table:
`benchmarks/README.md`. Other programs' steps of the same methods: `race.py`, `frameworks.py`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import timing
from benchmarks.harness.command import add_names, read, status
from benchmarks.harness.methods import METHODS
from benchmarks.harness.ours import Ours, Way
from benchmarks.harness.record import save
from benchmarks.harness.scene import Scene, add_scene, scene_of
from benchmarks.speed import ceilings
from sparring.environment import environment
from sparring.training import Runtime
from sparring.training.acceleration.cuda_graph import cudnn_benchmark, noticed_waits
from sparring.training.cost import Calls, forward_operations, step_cost

IN_A_ROW = {"cuda": 10, "cpu": 1}  # steps a round, as one is short for a GPU's clock
# Operators that need the device's answer.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")


@dataclass(frozen=True)
class Cost:
    """One method's row: what was counted, and the seconds of a step by round.

    Where a generator or a policy learns in some steps, all are means over whole intervals, and so is a round.
    """

    method: str
    level: str  # that steps were taken at
    units: float
    minimum: float
    operations: float  # floating-point, of a step
    operators: float  # around the network
    waits: float
    peak_bytes: int  # of the GPU's memory; 0 on a CPU
    refusal: str  # why it is not the level that was asked for
    seconds: list[float]

    @property
    def tflops(self) -> float:
        """Median rate in TFLOP/s."""
        return self.operations / median(self.seconds) / 1e12


def prepared(name: str, scene: Scene, way: Way) -> Ours:
    """Return the method in training, at the chosen level."""
    return Ours(scene, METHODS[name].make(), way)


@cudnn_benchmark()
def measure(name: str, scene: Scene, rounds: int, way: Way) -> Cost:
    """Count a step where it can be seen, uncompiled, then time some at the level.

    They are as many as `rounds` have, rounded up to whole intervals.
    """
    counted = _counted(name, scene, replace(way, level="eager", compiler=None))
    side = prepared(name, scene, way)
    side.warm_up()
    if side.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(side.device)
    in_a_row = IN_A_ROW[side.device.type]
    number = math.ceil(in_a_row / side.interval) * side.interval
    times = [
        timing.seconds(side.steps(number), side.device) / number for _ in range(math.ceil(rounds * in_a_row / number))
    ]
    peak = torch.cuda.max_memory_allocated(side.device) if side.device.type == "cuda" else 0
    return Cost(
        name,
        side.level,
        minimum=METHODS[name].minimum,
        peak_bytes=peak,
        refusal=side.refusal,
        seconds=times,
        **counted,
    )


def _counted(name: str, scene: Scene, way: Way) -> dict[str, float]:
    """Return what is the same at every level: `units`, `operations`, `operators` and `waits` of a step."""
    side = prepared(name, scene, way)
    side.step()  # optimizers make their state
    # A step in which a generator or a policy learns, and one of those until the next.
    kinds = [(_counted_step(side, scene, side.interval), 1)]
    if side.interval > 1:
        kinds.append((_counted_step(side, scene, side.interval + 1), side.interval - 1))
    means = {key: sum(number * found[key] for found, number in kinds) / side.interval for key in kinds[0][0]}
    forward = scene.batch * forward_operations(side.learner.network, (3, scene.size, scene.size))
    return means | {"operations": means["units"] * forward}


def _counted_step(side: Ours, scene: Scene, number: int) -> dict[str, float]:
    """Return `units`, `operators` and `waits` of the step with this number."""
    learner = side.learner
    learner.steps = number
    draw = side.draw()
    with Calls() as calls:
        side.step(draw)
    waits = sum(calls.by_name[operator] for operator in WAITS)
    learner.steps = number
    waits += _waits_of_the_driver(side)
    learner.steps = number
    units = step_cost(side.method, learner, next(scene.batches(side.device)))
    return {"units": units, "operators": calls.around_the_network, "waits": waits}


def _waits_of_the_driver(side: Ours) -> int:
    """Return how many of a step's waits for the device PyTorch itself notices, on a GPU."""
    if side.device.type != "cuda":
        return 0
    draw = side.draw()  # bringing an epoch's order to the device is not a step's wait
    with noticed_waits() as waits:
        side.step(draw)
    return len(waits)


def cost_table(costs: Sequence[Cost], title: str, batch: int, best: float) -> Table:
    """Return a row a method and level, a star where another was asked for.

    `best` is the machine's rate of matrix products in TFLOP/s.
    """
    numbers = ("forwards", "least", "calls", "waits", "ms", "least-most", "images/s", "of best")
    table = timing.table(title, ("method", "level"), numbers)
    for cost in costs:
        table.add_row(
            cost.method,
            cost.level + "*" * bool(cost.refusal),
            f"{cost.units:.2f}",
            f"{cost.minimum:g}",
            f"{cost.operators:.0f}",
            f"{cost.waits:g}",
            *timing.milliseconds(cost.seconds),
            f"{batch / median(cost.seconds):.1f}",
            f"{cost.tflops / best:.0%}",
        )
    refusals = {cost.refusal for cost in costs if cost.refusal}
    table.caption = "\n".join(f"* {refusal}" for refusal in sorted(refusals)) or None
    return table


def arguments_from(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line; exits with status 2 where it makes no sense."""
    parser = argparse.ArgumentParser(
        description="What a training step of each method costs, counted and timed. Images are synthetic noise. Close other "
        "programs first; read ratios, not absolute times.",
    )
    add_names(parser, "--methods", METHODS)
    add = parser.add_argument
    add(
        "--levels",
        nargs="+",
        choices=("eager", "compile", "graph", "compile+graph"),
        default=["eager"],
        help="how steps are taken (default: eager)",
    )
    add_scene(parser)
    add("--steps", type=int, default=5, help="timed steps, on a GPU rounds of ten (default: %(default)s)")
    add("--precision", choices=("32", "bf16-mixed"), default="32", help="default: %(default)s")
    add("--channels-last", action=argparse.BooleanOptionalAction, default=True, help="NHWC (default: yes)")
    return read(parser, words, "batch", "steps")


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Measure what was asked for, record it, and print the table."""
    scene = scene_of(arguments)
    runtime = Runtime(scene.accelerator)
    scene.network()  # which refuses one that there is not, before minutes of measuring
    best = ceilings.measure(runtime.fabric().device)
    costs: list[Cost] = []
    facts = environment()
    for name in arguments.methods:
        for level in arguments.levels:
            timing.say(f"{name}, {level}: counting a step, timing {arguments.steps}")
            way = Way(32 if arguments.precision == "32" else "bf16-mixed", arguments.channels_last, level)
            costs.append(measure(name, scene, arguments.steps, way))
            save("speed", arguments, facts, ceilings=best, methods=[asdict(cost) for cost in costs])
    layout = "channels-last" if arguments.channels_last else "NCHW"
    title = f"A step, {scene.model}, batch {scene.batch}, {arguments.precision}, {layout}, {timing.hardware(facts, runtime)}"
    kind = "float32" if arguments.precision == "32" else "bfloat16"
    console.print(cost_table(costs, title, scene.batch, best[f"{kind}_tflop_per_s"]), highlight=False)


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 2 for bad input."""
    # Into a file or a pipe as wide as the table is.
    return status(lambda: run(arguments_from(words), Console(width=None if sys.stdout.isatty() else 120)))


if __name__ == "__main__":
    sys.exit(main())
