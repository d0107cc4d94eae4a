"""A clock, and tables of times."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch
from rich import box
from rich.table import Table

from benchmarks.harness.record import Facts
from sparring.training import Runtime

Work = Callable[[], None]


def seconds(work: Work, device: torch.device) -> float:
    """Return the wall-clock time until the device has finished."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    ready: Callable[[], Work], ours: Mapping[str, Work], device: torch.device, rounds: int
) -> tuple[list[float], dict[str, list[float]]]:
    """Return seconds of theirs, ours, theirs, ours, ... in every round; `ready` gives the other
    side's work and is not timed.

    One more round goes before them and is thrown away.
    """
    theirs: list[float] = []
    mine: dict[str, list[float]] = {name: [] for name in ours}
    for _ in range(rounds + 1):
        theirs.append(seconds(ready(), device))
        for name, work in ours.items():
            mine[name].append(seconds(work, device))
    return theirs[1:], {name: times[1:] for name, times in mine.items()}


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Return how many times faster ours was, round by round."""
    return [slow / fast for slow, fast in zip(theirs, ours, strict=True)]


def milliseconds(times: Sequence[float]) -> tuple[str, str]:
    """Return the median of seconds, and the extremes, as text."""
    return f"{1e3 * median(times):.1f}", f"{1e3 * min(times):.1f}-{1e3 * max(times):.1f}"


def faster(theirs: Sequence[float], ours: Sequence[float]) -> tuple[str, str]:
    """Return the median ratio of a comparison in turn, and the extremes, as text."""
    found = ratios(theirs, ours)
    return f"{median(found):.2f}", f"{min(found):.2f}-{max(found):.2f}"


def table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    """Return an empty one; columns of numbers stand on the right."""
    empty = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for name in words:
        empty.add_column(name, no_wrap=True)
    for name in numbers:
        empty.add_column(name, justify="right", no_wrap=True)
    return empty


def say(progress: str) -> None:
    """Print a line rather than a live display, whose thread would run beside what is timed."""
    print(progress, file=sys.stderr, flush=True)


def hardware(facts: Facts, runtime: Runtime) -> str:
    """Return where the times are taken."""
    on_gpu = runtime.fabric().device.type == "cuda"
    return str(facts["gpu"]) if on_gpu else f"{facts['processor']} ({facts['threads']} threads)"
