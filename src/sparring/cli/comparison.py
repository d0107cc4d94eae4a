"""The command that trains and measures a table of the talk, and shows ours beside the published figures."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import torch

from sparring.cli.arguments import path
from sparring.comparison import SCALES, compared, planned, render, run
from sparring.errors import BadInput
from sparring.files import check_writable, replacing
from sparring.results import talk
from sparring.results.tables import listing
from sparring.terminal import console
from sparring.training.progress import reporter

_OUT = console()


def _compare(chosen: argparse.Namespace, overrides: list[str]) -> None:
    if chosen.list:
        _OUT.print(listing("table", {name: talk.table(name).title for name in talk.names()}))
        return
    if not chosen.table:
        raise BadInput("compare needs the name of a table: sparring compare --list shows them.")
    table = talk.table(chosen.table)
    budget = seconds(chosen.budget) if chosen.budget else None
    if chosen.jobs < 1:
        raise BadInput(f"--jobs must be at least 1, not {chosen.jobs}.")
    out = Path(chosen.out)
    files = {name: out / f"{table.name}-{chosen.scale}.{name}" for name in render.FORMATS}
    for file in files.values():
        check_writable(file)
    data = {"seeds": chosen.seeds, "path": chosen.data_path, "out": out}
    jobs = planned(table, chosen.scale, only=chosen.only, **data)
    errors = console(stderr=True)
    if not chosen.no_training:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        run(
            jobs,
            device=device,
            workers=chosen.jobs,
            budget=budget,
            report=lambda: reporter(errors),
            note=lambda text: errors.print(text, soft_wrap=True),
        )
    comparison = compared(table, chosen.scale, planned(table, chosen.scale, **data))
    _OUT.print(render.terminal(comparison))
    for name, write in render.FORMATS.items():
        with replacing(files[name]) as temporary:
            temporary.write_text(write(comparison), encoding="utf-8")
    _OUT.print(f"Written: {', '.join(map(str, files.values()))}", soft_wrap=True)


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
