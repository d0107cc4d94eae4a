"""Whether captured steps do what live ones do on this GPU, method by method: the same steps live, live again, and captured.

    python -m benchmarks.speed.captured --json results/captured.json

Two live runs show what the device itself leaves open, where a sum has no fixed order: if they agree bit for bit, the
captured one must, too. All three read their learning rate from the device, as captured steps do: from a number of the host
an optimizer would compute it otherwise in the last digit. Without a GPU nothing is captured, and all three are live.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import timing
from benchmarks.harness.command import add_names, read, status
from benchmarks.harness.methods import METHODS
from benchmarks.harness.ours import Ours, Way
from benchmarks.harness.record import save
from benchmarks.harness.scene import Scene
from benchmarks.opponents.match import apart
from sparring.environment import environment
from sparring.methods import LAS, SDI
from sparring.training import Runtime

STEPS = 12
RATE = 0.01  # at the scene's, on noise, LBGAT's networks grow without bound, and then nothing can be compared
INTERVAL = 3  # of SDI's and LAS's updates, so that a step with one is captured, after two, and replayed


@dataclass(frozen=True)
class Comparison:
    """The networks after the same steps, each time relative to how far they have moved; and what was captured."""

    method: str
    live: float  # between two live runs
    captured: float  # between a live and a captured one
    captures: int  # kinds of steps that were held at the end
    refusal: str  # why steps were taken live after all

    @property
    def agrees(self) -> bool:
        """Whether captured steps end where live ones do: exactly, or about as near as two live runs do.

        Never where a network is no longer finite, which can be compared with nothing.
        """
        return self.captured <= 10 * self.live


def compare(name: str, scene: Scene, steps: int = STEPS) -> Comparison:
    """Take some steps of a method in single precision, three times."""
    scene = replace(scene, optimisation=replace(scene.optimisation, lr=RATE))
    level = "graph" if Runtime(scene.accelerator).fabric().device.type == "cuda" else "eager"
    with _in_fixed_order():
        first, second, captured = (_trained(name, scene, way, steps) for way in (Way(), Way(), Way(level=level)))
    start = scene.network()
    return Comparison(
        name,
        apart(second.learner.network, first.learner.network, start),
        apart(captured.learner.network, first.learner.network, start),
        captured.captures,
        captured.refusal,
    )


def _trained(name: str, scene: Scene, way: Way, steps: int) -> Ours:
    method = METHODS[name].make()
    if isinstance(method, SDI | LAS):
        method = replace(method, interval=INTERVAL)
    side = Ours(scene, method, way)
    if side.session.replayer is None:  # which would have done so
        side.learner.keep_rate_on_device()
        side.learner.set_rate()  # the same in all steps
    side.steps(steps)()
    return side


@contextmanager
def _in_fixed_order() -> Iterator[None]:
    """Run convolutions by algorithms that always sum in the same order, in full single precision."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Return a row a method, a star where captured steps end elsewhere."""
    title = f"Networks after {STEPS} steps: the largest relative difference of a tensor"
    table = timing.table(title, ("method",), ("live, twice", "live, captured", "captures", "not captured, as"))
    for one in comparisons:
        name = one.method + "*" * (not one.agrees)
        table.add_row(name, f"{one.live:.0e}", f"{one.captured:.0e}", str(one.captures), one.refusal)
    return table


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_names(parser, "--methods", METHODS)
    parser.add_argument(
        "--width", type=int, default=16, help="channels of ResNet-18's first stage (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=32, help="images a step (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    options = read(parser, words, "width", "batch")
    return status(lambda: _run(options, Console()))


def _run(options: argparse.Namespace, console: Console) -> None:
    scene, facts, found = Scene(width=options.width, batch=options.batch, accelerator=options.device), environment(), []
    for name in options.methods:
        timing.say(f"{name}: {STEPS} steps live, live again, and captured")
        found.append(compare(name, scene))
        save("captured", options, facts, comparisons=[asdict(one) for one in found])
    console.print(comparison_table(found), highlight=False)


if __name__ == "__main__":
    sys.exit(main())
