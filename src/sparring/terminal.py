"""Consoles that print text as it is: names and paths of users may look like Rich's markup, `[/x]`, or emoji, `:fire:`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console without markup, emoji and highlighting, on standard output or standard error."""
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


@contextmanager
def errors_alone(library: str) -> Iterator[None]:
    """Keep a library's warnings off the terminal inside, where one sentence says what became of them."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
