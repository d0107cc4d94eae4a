"""What arguments of commands are read as."""

from __future__ import annotations

import argparse
from pathlib import Path


def path(text: str) -> str:
    """Return a path as it was written. Refuses an empty one, which a script's unset variable leaves behind."""
    if not text:
        raise argparse.ArgumentTypeError("a path cannot be empty, leave the option out for its default")
    return text


def named_after(recipe: str) -> str:
    """Return a recipe's name, or that of a YAML file without its folder and its ending: what a run's folder is called."""
    return Path(recipe).stem if recipe.endswith((".yaml", ".yml")) else recipe
