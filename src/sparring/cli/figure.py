"""The command that draws runs as figures of the talk."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from sparring.cli.arguments import path
from sparring.errors import BadInput
from sparring.files import check_writable
from sparring.gallery import FIGURES, draw
from sparring.results.figures import check_name, save
from sparring.results.tables import listing
from sparring.terminal import console

_OUT = console()


def _figure(chosen: argparse.Namespace, overrides: list[str]) -> None:
    if chosen.list:
        _OUT.print(listing("figure", {name: kind.shows for name, kind in FIGURES.items()}))
        return
    if not chosen.name:
        raise BadInput("figure needs the name of one: sparring figure --list shows them.")
    file = Path(chosen.out or f"{chosen.name}.png")
    check_name(file)
    check_writable(file)
    save(draw(chosen.name, chosen.runs), file)
    _OUT.print(f"Written: {file}", soft_wrap=True)


def add_figure(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the parser; `command` takes its name, its function and its help."""
    parser = command("figure", _figure, "Draw runs as a figure of the talk, PNG or SVG.")
    parser.add_argument("name", nargs="?", default="", help="such as overfitting")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="the folders of runs")
    parser.add_argument("--list", action="store_true", help="show the figures")
    parser.add_argument("--out", metavar="FILE", type=path, help="ends in .png or .svg (default: NAME.png here)")
