"""Our step and another's, taking turns: what `race.py` and `frameworks.py` share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks.harness import timing
from benchmarks.harness.command import read
from benchmarks.harness.ours import VARIANTS, add_variants
from benchmarks.harness.record import save
from benchmarks.harness.scene import Scene, add_scene, scene_of
from sparring.environment import environment
from sparring.training import Runtime

T = TypeVar("T")  # a dataclass of what one opponent's rounds gave


def read_contest(parser: argparse.ArgumentParser, words: Sequence[str] | None, *counts: str) -> argparse.Namespace:
    """Return the command line, with the options of the scene and of our side added."""
    add_scene(parser)
    add_variants(parser)
    return read(parser, words, "batch", *counts)


def contests(
    arguments: argparse.Namespace,
    console: Console,
    names: Sequence[str],
    measure: Callable[[str, Scene], T],
    *,
    benchmark: str,
    key: str,
) -> list[T]:
    """Measure one after the other; the record has what there is after each, under `key`."""
    scene, facts = scene_of(arguments), environment()
    place = timing.hardware(facts, Runtime(scene.accelerator))
    console.print(f"{scene.model}, batch {scene.batch}, {place}", highlight=False)
    found: list[T] = []
    for name in names:
        timing.say(f"{name} ...")
        found.append(measure(name, scene))
        save(benchmark, arguments, facts, **{key: [asdict(one) for one in found]})
    return found


def contest_table(title: str, other: str, short: str) -> Table:
    """Return an empty one; `other` heads the column of opponents, `short` that of their times."""
    return timing.table(title, (other, "ours in"), (f"{short} ms", "ours ms", "faster", "least-most"))


def add_rows(table: Table, opponent: str, theirs: Sequence[float], ours: Mapping[str, Sequence[float]]) -> None:
    """Print a row a variant of ours; a star marks what is not equal mathematics."""
    for variant, seconds in ours.items():
        name = variant + VARIANTS[variant].mark
        milliseconds = (timing.milliseconds(times)[0] for times in (theirs, seconds))
        table.add_row(opponent, name, *milliseconds, *timing.faster(theirs, seconds))
