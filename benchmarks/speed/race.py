"""Our step against the usual research step of the same method, in turn, on the same batches. CPU or GPU.

    python -m benchmarks.speed.race --json results/race.json                        # all methods at the published size
    python -m benchmarks.speed.race --methods mep --pairs 3 --variants fp32 --width 16 --batch 32

Before a method is timed, both sides make some steps from the same random draws in double precision, and must end with the
same weights. How to read the table, and what the opponents do: `benchmarks/README.md`, `opponents/research/`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.harness import timing
from benchmarks.harness.command import add_names, status
from benchmarks.harness.ours import VARIANTS, in_variants, refusals
from benchmarks.harness.scene import Scene
from benchmarks.opponents.match import Rival, Unequal, check, difference
from benchmarks.opponents.pairs import PAIRS
from benchmarks.opponents.research.habits import Draws
from benchmarks.speed.in_turn import add_rows, contest_table, contests, read_contest
from sparring.training.acceleration.cuda_graph import cudnn_benchmark


@dataclass(frozen=True)
class Race:
    """Our step against the research step: seconds of every round, ours by variant."""

    method: str
    difference: float  # relative, after some steps of each
    research: list[float]
    ours: dict[str, list[float]]
    refusals: dict[str, str]  # by variant: at which other level its steps were taken, and why


@cudnn_benchmark()
def race(name: str, scene: Scene, pairs: int, variants: Sequence[str]) -> Race:
    """Time research, ours, research, ours, ...: each round a step of everybody. The first round is thrown away.

    Raises Unequal where some steps of both leave them with different networks.
    """
    pair = PAIRS[name]
    found = difference(pair, scene)
    check(name, found)
    ours = in_variants(scene, lambda: pair.ours(scene), variants)
    rival = Rival(pair, scene, ours["fp32"], Draws())
    work = {variant: side.step for variant, side in ours.items()}
    return Race(name, found, *timing.in_turn(rival.ready, work, ours["fp32"].device, pairs), refusals(ours))


def race_table(races: Sequence[Race]) -> Table:
    """Return a row a method and variant of ours."""
    table = contest_table("Our step against the usual research step (fp32, NCHW)", "method", "research")
    for result in races:
        add_rows(table, result.method, result.research, result.ours)
    worst = max(result.difference for result in races)
    marked = any(VARIANTS[variant].mark for result in races for variant in result.ours)
    table.caption = (
        f"In double precision the weights differ by {worst:.0e} at most" + "\n* not equal mathematics" * marked
    ) + "".join(f"\n{result.method} in {name}: {why}" for result in races for name, why in result.refusals.items())
    return table


def arguments_from(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line; exits with status 2 where it makes no sense."""
    parser = argparse.ArgumentParser(
        description="How our training steps compare with the usual research steps of the same methods. Images are "
        "synthetic noise. Close other programs first; read ratios, not absolute times.",
    )
    add_names(parser, "--methods", PAIRS)
    parser.add_argument("--pairs", type=int, default=7, help="rounds of research and ours (default: %(default)s)")
    return read_contest(parser, words, "pairs")


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Race what was asked for, record it, and print the table."""

    def measure(name: str, scene: Scene) -> Race:
        return race(name, scene, arguments.pairs, arguments.variants)

    races = contests(arguments, console, arguments.methods, measure, benchmark="race", key="against_research")
    console.print(race_table(races), highlight=False)


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 1 where the two sides are not equal, 2 for bad input."""
    return status(lambda: run(arguments_from(words), Console()), Unequal)


if __name__ == "__main__":
    sys.exit(main())
