"""What a training step of each method costs, in forward passes beside the minimum and in time. Synthetic images; CPU or GPU.

    python benchmarks/speed.py                               # all methods at the published size
    python benchmarks/speed.py --width 16 --batch 32 --methods standard pgd-10 mep --steps 3

How to read the table: `README.md` beside this file. Against others' steps: `race.py`, `frameworks.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from sides import Ours, Precision, Scene
from sparring.attacks import PGD
from sparring.environment import environment
from sparring.errors import BadInput
from sparring.methods import AWP, BP, EP, MEP, TRADES, AdversarialTraining, Method, Standard
from sparring.threat import Ratio
from sparring.training import Runtime
from sparring.training.cost import step_cost
from timing import hardware, milliseconds, save, say, seconds, table

FGSM_RS = PGD(steps=1, alpha=Ratio("10/255"), bn="train")
PGD_10 = PGD(steps=10, alpha=Ratio("2/255"), bn="train")


@dataclass(frozen=True)
class Subject:
    """A method to measure, and the fewest forward passes that its step can cost."""

    make: Callable[[], Method]
    minimum: int


SUBJECTS = {
    "standard": Subject(Standard, 3),
    "fgsm-rs": Subject(lambda: AdversarialTraining(FGSM_RS), 5),
    "pgd-10": Subject(lambda: AdversarialTraining(PGD_10), 2 * 10 + 3),
    "trades-10": Subject(TRADES, 2 * 10 + 7),
    "awp(pgd-10)": Subject(lambda: AWP(AdversarialTraining(PGD_10)), 2 * 10 + 3 + 3),
    "awp(trades-10)": Subject(lambda: AWP(TRADES(), gamma=0.005), 2 * 10 + 7 + 6),
    "bp": Subject(BP, 8),
    "ep": Subject(EP, 8),
    "mep": Subject(MEP, 7),
    "awp(mep)": Subject(lambda: AWP(MEP()), 8 + 6),
}


@dataclass(frozen=True)
class Cost:
    """One method's row: counted cost, and the seconds of every timed step."""

    method: str
    units: float
    minimum: int
    seconds: list[float]


def measure(name: str, scene: Scene, steps: int, precision: Precision, channels_last: bool) -> Cost:
    """Count one step of a method, which also warms up, and time `steps` more."""
    subject = SUBJECTS[name]
    ours = Ours(scene, subject.make(), precision, channels_last)
    units = step_cost(ours.method, ours.learner, next(ours.batches))
    return Cost(name, units, subject.minimum, [seconds(ours.step, ours.device) for _ in range(steps)])


def cost_table(costs: Sequence[Cost], title: str, batch: int) -> Table:
    """A row a method."""
    found = table(title, ("method",), ("forwards", "minimum", "ms", "least-most", "images/s"))
    for cost in costs:
        images = f"{batch / median(cost.seconds):.1f}"
        found.add_row(cost.method, f"{cost.units:.2f}", str(cost.minimum), *milliseconds(cost.seconds), images)
    return found


def arguments_from(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with status 2 where it makes no sense."""
    parser = argparse.ArgumentParser(
        description="What a training step costs in forward passes and time. Images are synthetic noise. Close other "
        "programs first; read ratios, not absolute times.",
    )
    add = parser.add_argument
    add(
        "--methods",
        nargs="+",
        choices=SUBJECTS,
        default=list(SUBJECTS),
        metavar="NAME",
        help="default: all of " + ", ".join(SUBJECTS),
    )
    add("--model", default="resnet18", help="any name of sparring.models.create (default: %(default)s)")
    add("--width", type=int, help="channels of the first stage (default: the paper's, 64 for resnet18)")
    add("--size", type=int, default=32, help="side of an image in pixels (default: %(default)s)")
    add("--batch", type=int, default=128, help="images a step (default: %(default)s)")
    add("--steps", type=int, default=5, help="timed steps of each method (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: %(default)s)")
    add("--precision", choices=("32", "bf16-mixed"), default="32", help="of the computation (default: %(default)s)")
    add(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="NHWC (default: yes)",
    )
    add("--json", type=Path, metavar="FILE", help="also write a record with every time measured")
    arguments = parser.parse_args(words)
    for name in ("batch", "steps"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    return arguments


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Measure what was asked for, record it, and print the table."""
    scene = Scene(arguments.model, arguments.width, arguments.batch, arguments.size, arguments.device)
    stated = {name: value for name, value in vars(arguments).items() if name != "json"}  # no paths in a record
    facts = environment()
    place = hardware(facts, Runtime(scene.accelerator))
    console.print(f"{scene.model}, batch {scene.batch}, {place}", highlight=False)
    precision: Precision = 32 if arguments.precision == "32" else "bf16-mixed"
    costs: list[Cost] = []
    for name in arguments.methods:
        say(f"{name}: counting a step, timing {arguments.steps}")
        costs.append(measure(name, scene, arguments.steps, precision, arguments.channels_last))
        save(arguments.json, "speed", stated, facts, methods=[asdict(cost) for cost in costs])
    layout = "channels-last" if arguments.channels_last else "NCHW"
    title = f"A step of each method, {arguments.precision}, {layout}"
    console.print(cost_table(costs, title, scene.batch), highlight=False)


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 2 for bad input."""
    try:
        run(arguments_from(words), Console())
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
