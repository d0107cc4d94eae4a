"""Our step against the training loops of other libraries for the same method, in turn. CPU or GPU.

    python -m benchmarks.speed.frameworks --json results/frameworks.json
    python -m benchmarks.speed.frameworks --opponents art-pgd-10 mair-pgd-10 --rounds 1 --width 16 --batch 32

ART runs through its public trainers, MAIR's step is written after its trainers (`opponents/`): what each
does stands there. Same network, attack settings and number of images, in batches of the same size. Where the mathematics
is another than ours the table says how; the ratio then compares what users get under one name, not two ways to compute it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.table import Table

from benchmarks.harness import timing
from benchmarks.harness.command import add_names, status
from benchmarks.harness.ours import in_variants, refusals
from benchmarks.harness.scene import Scene
from benchmarks.opponents.loops import OPPONENTS, Opponent, each
from benchmarks.opponents.match import Unequal, check
from benchmarks.speed.in_turn import add_rows, contest_table, contests, read_contest
from sparring.training.acceleration.cuda_graph import cudnn_benchmark


@dataclass(frozen=True)
class Bout:
    """Seconds a batch in every round, ours by variant."""

    loop: str
    method: str
    unlike: str
    difference: float | None  # relative, after some steps of each in double precision
    theirs: list[float]
    ours: dict[str, list[float]]
    refusals: dict[str, str]  # by variant: at which other level its steps were taken, and why


@cudnn_benchmark()
def bout(opponent: Opponent, scene: Scene, rounds: int, batches: int, variants: Sequence[str]) -> Bout:
    """Time theirs, ours, theirs, ours, ...: each round some batches of everybody. The first round is thrown away.

    Raises Unequal where some steps of both leave them with different networks, although they should compute the same.
    """
    found = opponent.difference(scene)
    if found is not None:
        check(opponent.loop, found)
    ours = in_variants(scene, opponent.ours, variants)
    ready = opponent.enter(scene, ours["fp32"], batches)
    work = {variant: partial(each, [side.step] * batches) for variant, side in ours.items()}
    theirs, mine = timing.in_turn(ready, work, ours["fp32"].device, rounds)
    times = {variant: [seconds / batches for seconds in rounds_] for variant, rounds_ in mine.items()}
    theirs = [seconds / batches for seconds in theirs]
    return Bout(opponent.loop, opponent.method, opponent.unlike, found, theirs, times, refusals(ours))


def bout_table(bouts: Sequence[Bout]) -> Table:
    """Return a row a loop and variant of ours; a star marks what is not the same mathematics."""
    table = contest_table("Our step against other libraries' loops, a batch", "their loop", "theirs")
    for result in bouts:
        add_rows(table, result.loop + "*" * bool(result.unlike), result.theirs, result.ours)
    notes = [f"{result.loop}: {result.unlike}" for result in bouts if result.unlike]
    notes += [f"{result.loop}, ours in {name}: {why}" for result in bouts for name, why in result.refusals.items()]
    table.caption = "\n".join(["* not equal mathematics", *notes])
    return table


def arguments_from(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line; exits with status 2 where it makes no sense."""
    parser = argparse.ArgumentParser(
        description="How our training steps compare with other libraries' training loops. Images are synthetic noise. "
        "Close other programs first; read ratios, not absolute times.",
    )
    add_names(parser, "--opponents", OPPONENTS)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="rounds of theirs and ours (default: %(default)s)")
    add("--batches", type=int, default=2, help="batches a round, one call of a trainer of ART (default: %(default)s)")
    return read_contest(parser, words, "rounds", "batches")


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Measure what was asked for, record it, and print the table."""

    def measure(name: str, scene: Scene) -> Bout:
        return bout(OPPONENTS[name], scene, arguments.rounds, arguments.batches, arguments.variants)

    bouts = contests(arguments, console, arguments.opponents, measure, benchmark="frameworks", key="against_libraries")
    console.print(bout_table(bouts), highlight=False)


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 1 where two sides that should be equal are not, 2 for bad input."""
    return status(lambda: run(arguments_from(words), Console()), Unequal)


if __name__ == "__main__":
    sys.exit(main())
