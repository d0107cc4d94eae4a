"""The command that trains and measures a table of the talk, and shows ours beside the published figures."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.table import Table

from sparring.cli.arguments import path
from sparring.comparison import SCALES, bpda, compared, planned, render, run
from sparring.comparison.job import Job
from sparring.errors import BadInput, unknown
from sparring.files import check_writable, replacing
from sparring.results import talk
from sparring.results.tables import listing
from sparring.terminal import console
from sparring.training.progress import reporter

_OUT = console()


def _compare(chosen: argparse.Namespace, overrides: list[str]) -> None:
    if chosen.list:
        _OUT.print(listing("table", {name: talk.table(name).title for name in talk.names()} | {bpda.NAME: bpda.TITLE}))
        return
    if not chosen.table:
        raise BadInput("compare needs the name of a table: sparring compare --list shows them.")
    if chosen.table not in (bpda.NAME, *talk.names()):
        raise unknown("table", chosen.table, [bpda.NAME, *talk.names()])
    if chosen.jobs < 1:
        raise BadInput(f"--jobs must be at least 1, not {chosen.jobs}.")
    chosen.budget = seconds(chosen.budget) if chosen.budget else None
    out = Path(chosen.out)
    files = {name: out / f"{chosen.table}-{chosen.scale}.{name}" for name in render.FORMATS}
    for file in files.values():
        check_writable(file)
    shown, texts = _defences(chosen, out) if chosen.table == bpda.NAME else _rows(chosen, out)
    _OUT.print(shown)
    for name, file in files.items():
        with replacing(file) as temporary:
            temporary.write_text(texts[name], encoding="utf-8")
    _OUT.print(f"Written: {', '.join(map(str, files.values()))}", soft_wrap=True)


def _rows(chosen: argparse.Namespace, out: Path) -> tuple[Table, dict[str, str]]:
    """Train and measure a table of methods; return it for the terminal, and as text in every format."""
    table = talk.table(chosen.table)
    data = {"seeds": chosen.seeds, "path": chosen.data_path, "out": out}
    _run(chosen, planned(table, chosen.scale, only=chosen.only, **data))
    comparison = compared(table, chosen.scale, planned(table, chosen.scale, **data), out)
    return render.terminal(comparison), {name: write(comparison) for name, write in render.FORMATS.items()}


def _defences(chosen: argparse.Namespace, out: Path) -> tuple[Table, dict[str, str]]:
    """Do the same for the table of defences, whose rows are attacks on the same few networks."""
    if chosen.only or chosen.seeds != 1:
        raise BadInput("The table bpda is of single networks, all of them: leave out --only and --seeds.")
    jobs = bpda.planned(chosen.scale, path=chosen.data_path, out=out)
    networks = list({job.folder: job for job in jobs.values()}.values())
    if _run(chosen, networks) and not chosen.no_training:
        bpda.measure(jobs, _device(), _note)
    table = bpda.tabulated(jobs, chosen.scale)
    return bpda.terminal(table), {name: write(table) for name, write in bpda.FORMATS.items()}


def _run(chosen: argparse.Namespace, jobs: Sequence[Job]) -> bool:
    """Do the jobs, unless there is to be no training; return whether all are done."""
    if chosen.no_training:
        return True
    return run(
        jobs,
        device=_device(),
        workers=chosen.jobs,
        budget=chosen.budget,
        report=lambda: reporter(console(stderr=True)),
        note=_note,
    )


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _note(text: str) -> None:
    console(stderr=True).print(text, soft_wrap=True)


_UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """Return the seconds of a text such as 90s, 30m or 2h; raises BadInput for others."""
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)):
        raise BadInput(f"--budget is {text!r}: write a time such as 90s, 30m or 2h.")
    return float(match[1]) * _UNITS[match[2]]


def add_compare(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the parser; `command` takes its name, its function and its help."""
    parser = command(
        "compare",
        _compare,
        "Train and measure the rows of a table of the talk, and show them beside the published figures. Goes on where it "
        "stopped; rows of several machines are joined by copying their folders together.",
    )
    parser.add_argument("table", nargs="?", default="", help="such as sdi-table-6")
    parser.add_argument("--list", action="store_true", help="show the tables")
    parser.add_argument(
        "--scale",
        choices=list(SCALES),
        default="full",
        help="how large: smoke (a minute), cpu (an hour or two on two cores), gpu (30 epochs, 1,000 test images), full",
    )
    parser.add_argument(
        "--data.path", dest="data_path", metavar="DIR", type=path, help="the images (default: from the hub)"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train with the seeds 0 to N - 1 (default: 1)"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="ROW", help="only this row, as printed; repeatable"
    )
    parser.add_argument("--budget", metavar="TIME", help="stop, saved, after such as 90s, 30m or 2h")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many rows at a time on this machine")
    parser.add_argument("--no-training", action="store_true", help="only show what is there")
    parser.add_argument(
        "--out", default="runs/compare", metavar="DIR", type=path, help="folder (default: runs/compare)"
    )
