"""Digests of what every recipe resolves to, defaults included: `tests/recipe_digests.txt`, a row a recipe.

`python tests/recipe_digests.py` writes the file anew. Do so only where recipes, or defaults that they rest on, are meant to
change, and say in the commit which and why.
"""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import yaml

from sparring import recipes
from sparring.configuration import read, to_yaml
from sparring.experiment import Experiment

FILE = Path(__file__).with_suffix(".txt")


def digests(name: str) -> dict[str, str]:
    """Return the digest of each section of a recipe: equal for equal values, however they are written."""
    sections = yaml.safe_load(to_yaml(read(Experiment, recipes.find(name))))
    return {section: _digest(content) for section, content in sections.items()}


def recorded() -> dict[str, dict[str, str]]:
    """Return what the file holds: a digest for each section of each recipe."""
    head, *rows = (line.split() for line in FILE.read_text(encoding="utf-8").splitlines())
    return {name: dict(zip(head[1:], row, strict=True)) for name, *row in rows}


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(_plain(content), sort_keys=True).encode()).hexdigest()[:8]


def _plain(content: object) -> object:
    """Numbers as reduced fractions, written as 8/255, 0.05 or 1.0e-4; the rest as it is."""
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    if content is None or isinstance(content, bool):
        return content
    try:
        return str(Fraction(str(content)))
    except ValueError:
        return content


if __name__ == "__main__":
    table = {name: digests(name) for name in recipes.names()}
    head = list(next(iter(table.values())))
    lines = [("recipe", *head), *((name, *(row[section] for section in head)) for name, row in table.items())]
    FILE.write_text("".join(" ".join(line) + "\n" for line in lines), encoding="utf-8")
