"""What a training step costs, and how it compares with the usual research step. Synthetic images; CPU or GPU.

    python benchmarks/speed.py                               # everything at the published size
    python benchmarks/speed.py --width 16 --batch 32 --methods standard pgd-10 mep --steps 3 --pairs 3

Two measurements: for each method, its cost counted in forward passes beside the minimum, and its speed; and for FGSM-RS,
PGD-10 and FGSM-MEP, our step against `research.py` taking turns on the same batches, after one step of either has
been shown to give the same weights. How to read the tables: `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from sides import CLASSES, Ours, Precision, Rival, Scene, difference
from sparring.attacks import PGD
from sparring.environment import environment
from sparring.errors import BadInput
from sparring.files import replacing
from sparring.losses import smoothing_from_kept
from sparring.methods import AWP, BP, EP, MEP, TRADES, AdversarialTraining, Method, Standard
from sparring.threat import Ratio
from sparring.training import Runtime
from sparring.training.cost import step_cost

FGSM_RS = PGD(steps=1, alpha=Ratio("10/255"), bn="train")
PGD_10 = PGD(steps=10, alpha=Ratio("2/255"), bn="train")
TOLERANCE = 1e-5  # largest relative difference between the two sides' networks after a step in float32


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


def released_mep() -> MEP:
    """FGSM-MEP with every switch as in the released code, which is what the research step does."""
    return MEP(
        weight=10.0,
        regulariser="mean",
        smoothing=smoothing_from_kept(0.6, CLASSES),
        initial="rademacher",
        reset=40,
        box="final",
        decay=0.3,
        momentum="gradient",
        aligned=False,
    )


RIVALLED = {"fgsm-rs": SUBJECTS["fgsm-rs"].make, "pgd-10": SUBJECTS["pgd-10"].make, "mep": released_mep}


@dataclass(frozen=True)
class Variant:
    """A way for our side to compute. The first one is the research step's own, and compared with it weight by weight."""

    precision: Precision
    channels_last: bool
    mark: str = ""


VARIANTS = {
    "fp32": Variant(32, channels_last=False),
    "channels-last": Variant(32, channels_last=True),
    "bf16": Variant("bf16-mixed", channels_last=False, mark="*"),
    "bf16-channels-last": Variant("bf16-mixed", channels_last=True, mark="*"),
}


@dataclass(frozen=True)
class Cost:
    """One method's row: counted cost, and the seconds of every timed step."""

    method: str
    units: float
    minimum: int
    seconds: list[float]


@dataclass(frozen=True)
class Race:
    """Our step against the research step: seconds of every round, ours by variant."""

    method: str
    difference: float  # relative, after one step of each
    research: list[float]
    ours: dict[str, list[float]]

    def ratios(self, variant: str) -> list[float]:
        """How many times faster ours was, round by round."""
        return [theirs / mine for theirs, mine in zip(self.research, self.ours[variant], strict=True)]


class Unequal(Exception):
    """The two sides do not compute the same, so that comparing their speed would mean nothing."""


def measure(name: str, scene: Scene, steps: int, precision: Precision, channels_last: bool) -> Cost:
    """Count one step of a method, which also warms up, and time `steps` more."""
    subject = SUBJECTS[name]
    ours = Ours(scene, subject.make(), precision, channels_last)
    units = step_cost(ours.method, ours.learner, next(ours.batches))
    return Cost(name, units, subject.minimum, [_seconds(ours.step, ours.device) for _ in range(steps)])


def race(name: str, scene: Scene, pairs: int, variants: Sequence[str]) -> Race:
    """Research, ours, research, ours, ...: each round a step of everybody. The first round is thrown away.

    Raises Unequal where the first step, in float32 and NCHW on both sides, leaves them with different networks.
    """
    ours = {"fp32": Ours(scene, RIVALLED[name]())}
    rival = Rival(scene, ours["fp32"])
    apart = difference(ours["fp32"], rival)
    if not apart <= TOLERANCE:  # also refuses nan
        raise Unequal(f"{name}: after one step the two sides differ by {apart:.1e}, more than {TOLERANCE:.0e}.")
    for variant in variants:
        if variant != "fp32":
            way = VARIANTS[variant]
            ours[variant] = Ours(scene, RIVALLED[name](), way.precision, way.channels_last)
    result = Race(name, apart, [], {variant: [] for variant in ours})
    for turn in range(pairs + 1):
        theirs = _seconds(rival.ready(), ours["fp32"].device)
        mine = {variant: _seconds(side.step, side.device) for variant, side in ours.items()}
        if turn > 0:
            result.research.append(theirs)
            for variant, seconds in mine.items():
                result.ours[variant].append(seconds)
    return result


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Wall-clock time until the device has finished."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Report:
    """The record of a run: written anew after every measurement, so that an interrupted one keeps what it has."""

    arguments: dict[str, Any]
    file: Path | None
    costs: list[Cost] = field(default_factory=list)
    races: list[Race] = field(default_factory=list)
    environment: dict[str, str | int] = field(default_factory=environment)

    def save(self) -> None:
        """Write the JSON file, if one was asked for."""
        if self.file is None:
            return
        contents = {
            "benchmark": "speed",
            "data": "synthetic: uniform 8-bit noise, random labels",
            "arguments": self.arguments,
            "environment": self.environment,
            "tf32": torch.backends.cudnn.allow_tf32,
            "methods": [asdict(cost) for cost in self.costs],
            "against_research": [asdict(race) for race in self.races],
        }
        with replacing(self.file) as temporary:
            temporary.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def cost_table(costs: Sequence[Cost], title: str, batch: int) -> Table:
    """A row a method."""
    table = _table(title, ("method",), ("forwards", "minimum", "ms", "least-most", "images/s"))
    for cost in costs:
        images = f"{batch / median(cost.seconds):.1f}"
        table.add_row(cost.method, f"{cost.units:.2f}", str(cost.minimum), *_milliseconds(cost.seconds), images)
    return table


def race_table(races: Sequence[Race], title: str) -> Table:
    """A row a method and variant of ours."""
    table = _table(title, ("method", "ours in"), ("research ms", "ours ms", "faster", "least-most"))
    for result in races:
        theirs, _ = _milliseconds(result.research)
        for variant, seconds in result.ours.items():
            mine, _ = _milliseconds(seconds)
            ratios = result.ratios(variant)
            name = variant + VARIANTS[variant].mark
            extremes = f"{min(ratios):.2f}-{max(ratios):.2f}"
            table.add_row(result.method, name, theirs, mine, f"{median(ratios):.2f}", extremes)
    agreed = ", ".join(f"{result.method} {result.difference:.0e}" for result in races)
    marked = any(VARIANTS[variant].mark for result in races for variant in result.ours)
    table.caption = f"After one step the weights differ by: {agreed}" + "\n* not equal mathematics" * marked
    return table


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for name in words:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _milliseconds(seconds: Sequence[float]) -> tuple[str, str]:
    """The median, and the extremes."""
    return f"{1e3 * median(seconds):.1f}", f"{1e3 * min(seconds):.1f}-{1e3 * max(seconds):.1f}"


def arguments_from(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with status 2 where it makes no sense."""
    parser = argparse.ArgumentParser(
        description="What a training step costs in forward passes and time, and how it compares with the usual "
        "research step. Images are synthetic noise. Close other programs first; read ratios, not absolute times.",
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
    add("--only", choices=("methods", "research"), help="one of the two measurements (default: both)")
    add(
        "--variants",
        nargs="*",
        choices=VARIANTS,
        default=list(VARIANTS),
        metavar="NAME",
        help=f"how ours computes against research; fp32 always runs (default: all of {', '.join(VARIANTS)})",
    )
    add("--model", default="resnet18", help="any name of sparring.models.create (default: %(default)s)")
    add("--width", type=int, help="channels of the first stage (default: the paper's, 64 for resnet18)")
    add("--size", type=int, default=32, help="side of an image in pixels (default: %(default)s)")
    add("--batch", type=int, default=128, help="images a step, a power of two against research (default: %(default)s)")
    add("--steps", type=int, default=5, help="timed steps of each method (default: %(default)s)")
    add("--pairs", type=int, default=7, help="rounds of research and ours (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: %(default)s)")
    add("--precision", choices=("32", "bf16-mixed"), default="32", help="of the methods' table (default: %(default)s)")
    add(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="NHWC, in the methods' table (default: yes)",
    )
    add("--json", type=Path, metavar="FILE", help="also write a record with every time measured")
    arguments = parser.parse_args(words)
    for name in ("batch", "steps", "pairs"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    return arguments


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Measure what was asked for and print the tables."""
    scene = Scene(arguments.model, arguments.width, arguments.batch, arguments.size, arguments.device)
    stated = {name: value for name, value in vars(arguments).items() if name != "json"}  # no paths in a record
    report = Report(stated, arguments.json)
    console.print(f"{scene.model}, batch {scene.batch}, {_hardware(report.environment, scene)}", highlight=False)
    if arguments.only != "methods":
        _check_batch(scene.batch)
    if arguments.only != "research":
        _measure_all(arguments, scene, report, console)
    if arguments.only != "methods":
        _race_all(arguments, scene, report, console)


def _measure_all(arguments: argparse.Namespace, scene: Scene, report: Report, console: Console) -> None:
    precision: Precision = 32 if arguments.precision == "32" else "bf16-mixed"
    for name in arguments.methods:
        _say(f"{name}: counting a step, timing {arguments.steps}")
        report.costs.append(measure(name, scene, arguments.steps, precision, arguments.channels_last))
        report.save()
    layout = "channels-last" if arguments.channels_last else "NCHW"
    title = f"A step of each method, {arguments.precision}, {layout}"
    console.print(cost_table(report.costs, title, scene.batch), highlight=False)


def _race_all(arguments: argparse.Namespace, scene: Scene, report: Report, console: Console) -> None:
    rivalled = [name for name in arguments.methods if name in RIVALLED]
    for name in rivalled:
        _say(f"{name} against research: {arguments.pairs} rounds and one to warm up")
        report.races.append(race(name, scene, arguments.pairs, arguments.variants))
        report.save()
    if rivalled:
        console.print(
            race_table(report.races, "Our step against the usual research step (fp32, NCHW)"), highlight=False
        )


def _check_batch(batch: int) -> None:
    if batch & (batch - 1):
        raise BadInput(
            f"--batch {batch} is no power of two: our attack sums the samples' losses, the research step takes their "
            "mean, and only such a division is exact, which PGD-10 needs to stay comparable. Write "
            f"{2 ** round(math.log2(batch))}, or --only methods."
        )


def _say(progress: str) -> None:
    """A line rather than a live display, whose thread would run beside what is timed."""
    print(progress, file=sys.stderr, flush=True)


def _hardware(facts: dict[str, str | int], scene: Scene) -> str:
    on_gpu = Runtime(scene.accelerator).fabric().device.type == "cuda"
    return str(facts["gpu"]) if on_gpu else f"{facts['processor']} ({facts['threads']} threads)"


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 1 where the two sides are not equal, 2 for bad input."""
    try:
        run(arguments_from(words), Console())
    except Unequal as error:
        print(error, file=sys.stderr)
        return 1
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
