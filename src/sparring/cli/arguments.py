"""What arguments of commands are read as."""

from __future__ import annotations

import argparse


def path(text: str) -> str:
    """Return a path as it was written. Refuses an empty one, which a script's unset variable leaves behind."""
    if not text:
        raise argparse.ArgumentTypeError("a path cannot be empty, leave the option out for its default")
    return text
