"""Our step against the usual research step of the same method, in turn, on the same batches. CPU or GPU.

    python benchmarks/race.py --json results/race.json                        # all methods at the published size
    python benchmarks/race.py --methods mep --pairs 3 --variants fp32 --width 16 --batch 32

Before a method is timed, both sides make some steps from the same random draws in double precision, and must end with the
same weights. How to read the table, and what the opponents do: `README.md` beside this file, `research/`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

import timing
from command import add_names, read, status
from pairs import PAIRS
from research.habits import Draws
from scene import Scene, add_scene, scene_of
from sides import VARIANTS, Rival, add_variants, difference, in_variants
from sparring.environment import environment
from sparring.training import Runtime

TOLERANCE = 1e-9  # largest difference of a tensor after the steps of the check, relative to how far they moved it


@dataclass(frozen=True)
class Race:
    """Our step against the research step: seconds of every round, ours by variant."""

    method: str
    difference: float  # relative, after some steps of each
    research: list[float]
    ours: dict[str, list[float]]


class Unequal(Exception):
    """The two sides do not compute the same, so that comparing their speed would mean nothing."""


def race(name: str, scene: Scene, pairs: int, variants: Sequence[str]) -> Race:
    """Research, ours, research, ours, ...: each round a step of everybody. The first round is thrown away.

    Raises Unequal where some steps of both leave them with different networks.
    """
    pair = PAIRS[name]
    found = difference(pair, scene)
    if not found <= TOLERANCE:  # also refuses nan
        raise Unequal(f"{name}: after some steps the two sides differ by {found:.1e}, more than {TOLERANCE:.0e}.")
    ours = in_variants(scene, lambda: pair.ours(scene), variants)
    rival = Rival(pair, scene, ours["fp32"], Draws())
    work = {variant: side.step for variant, side in ours.items()}
    return Race(name, found, *timing.in_turn(rival.ready, work, ours["fp32"].device, pairs))


def race_table(races: Sequence[Race]) -> Table:
    """A row a method and variant of ours."""
    title = "Our step against the usual research step (fp32, NCHW)"
    table = timing.table(title, ("method", "ours in"), ("research ms", "ours ms", "faster", "least-most"))
    for result in races:
        theirs, _ = timing.milliseconds(result.research)
        for variant, seconds in result.ours.items():
            mine, _ = timing.milliseconds(seconds)
            name = variant + VARIANTS[variant].mark
            table.add_row(result.method, name, theirs, mine, *timing.faster(result.research, seconds))
    worst = max(result.difference for result in races)
    marked = any(VARIANTS[variant].mark for result in races for variant in result.ours)
    table.caption = (
        f"In double precision the weights differ by {worst:.0e} at most" + "\n* not equal mathematics" * marked
    )
    return table


def arguments_from(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with status 2 where it makes no sense."""
    parser = argparse.ArgumentParser(
        description="How our training steps compare with the usual research steps of the same methods. Images are "
        "synthetic noise. Close other programs first; read ratios, not absolute times.",
    )
    add_names(parser, "--methods", PAIRS)
    parser.add_argument("--pairs", type=int, default=7, help="rounds of research and ours (default: %(default)s)")
    add_scene(parser)
    add_variants(parser)
    return read(parser, words, "batch", "pairs")


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Race what was asked for, record it, and print the table."""
    scene = scene_of(arguments)
    facts = environment()
    place = timing.hardware(facts, Runtime(scene.accelerator))
    console.print(f"{scene.model}, batch {scene.batch}, {place}", highlight=False)
    races: list[Race] = []
    for name in arguments.methods:
        timing.say(f"{name} against research: a check, {arguments.pairs} rounds and one to warm up")
        races.append(race(name, scene, arguments.pairs, arguments.variants))
        timing.save("race", arguments, facts, against_research=[asdict(race) for race in races])
    console.print(race_table(races), highlight=False)


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 1 where the two sides are not equal, 2 for bad input."""
    return status(lambda: run(arguments_from(words), Console()), Unequal)


if __name__ == "__main__":
    sys.exit(main())
