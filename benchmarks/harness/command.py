"""What command lines share: names to choose from, counts, a record, and the exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NoReturn

from sparring.errors import BadInput


def add_names(parser: argparse.ArgumentParser, option: str, names: Collection[str]) -> None:
    """Add an option that takes some of these names; by itself it means all of them."""
    everything = "default: all of " + ", ".join(names)
    parser.add_argument(option, nargs="+", choices=names, default=list(names), metavar="NAME", help=everything)


def read(parser: argparse.ArgumentParser, words: Sequence[str] | None, *counts: str) -> argparse.Namespace:
    """Return the command line, --json with it; exits with status 2 where it makes no sense or a count is below 1."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write a record with every time measured")
    arguments = parser.parse_args(words)
    for name in counts:
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    return arguments


def status(work: Callable[[], int | None], failure: type[Exception] | tuple[()] = ()) -> int:
    """Return what the work returns, 0 for nothing; with a sentence, 1 for this failure and 2 for bad input."""
    try:
        return work() or 0
    except failure as error:
        print(error, file=sys.stderr)
        return 1
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2


def exit_with(main: Callable[[], int]) -> NoReturn:
    """End the program with what `main` returns; with a sentence and 2 for bad input."""
    sys.exit(status(main))
