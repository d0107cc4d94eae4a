"""Consoles that print text as it is: names and paths of users may look like Rich's markup, `[/x]`, or emoji, `:fire:`."""

from __future__ import annotations

from rich.console import Console


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console without markup, emoji and highlighting, on standard output or standard error."""
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
