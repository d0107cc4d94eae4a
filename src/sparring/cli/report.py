"""The command that writes a report about runs and tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from sparring.cli.arguments import path
from sparring.comparison import SCALES, compared, planned
from sparring.errors import BadInput, unknown
from sparring.files import check_writable, replacing
from sparring.report import gathered, page
from sparring.results import talk
from sparring.terminal import console

_OUT = console()


def _report(chosen: argparse.Namespace, overrides: list[str]) -> None:
    file = Path(chosen.out)
    if file.suffix.lower() != ".html":
        raise BadInput(f"A report is written as .html: name the file so, not {file}.")
    if chosen.examples < 0:
        raise BadInput(f"--examples must be at least 0, not {chosen.examples}.")
    check_writable(file)
    folders, comparisons = [], []
    for thing in chosen.things:
        if Path(thing).is_dir():
            folders.append(Path(thing))
            continue
        if thing not in talk.names():
            raise unknown("run or table", thing, talk.names())
        table = talk.table(thing)
        jobs = planned(table, chosen.scale, seeds=chosen.seeds, path=chosen.data_path, out=Path(chosen.compared))
        comparisons.append(compared(table, chosen.scale, jobs, Path(chosen.compared)))
        trained = [job.folder for job in jobs if job.is_trained()]
        folders += [folder for folder in trained if folder not in folders]
    if not folders:
        raise BadInput(f"No row of {', '.join(chosen.things)} has been trained: sparring compare {chosen.things[0]}.")
    errors = console(stderr=True)
    report = gathered(
        folders,
        comparisons,
        shown=chosen.examples,
        device="cuda" if torch.cuda.is_available() else "cpu",
        note=lambda text: errors.print(text, soft_wrap=True),
    )
    with replacing(file) as temporary:
        temporary.write_text(page(report), encoding="utf-8")
    _OUT.print(f"Written: {file}", soft_wrap=True)


def add_report(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the parser; `command` takes its name, its function and its help."""
    parser = command(
        "report", _report, "Write one HTML page about runs or tables: verdicts, figures, curves, adversarial examples."
    )
    parser.add_argument(
        "things", nargs="+", metavar="RUN_OR_TABLE", help="folders of runs, or tables that were compared"
    )
    parser.add_argument("--out", default="report.html", metavar="FILE", type=path, help=".html (default: report.html)")
    parser.add_argument(
        "--examples",
        type=int,
        default=6,
        metavar="N",
        help="adversarial examples of each run (default: 6); 0 reads no images and does not ask the doctor",
    )
    tables = parser.add_argument_group("of tables, as compare was told")
    tables.add_argument("--scale", choices=list(SCALES), default="full", help="default: full")
    tables.add_argument(
        "--data.path", dest="data_path", metavar="DIR", type=path, help="the images (default: from the hub)"
    )
    tables.add_argument("--seeds", type=int, default=1, metavar="N", help="default: 1")
    tables.add_argument("--compared", default="runs/compare", metavar="DIR", type=path, help="its --out (runs/compare)")
