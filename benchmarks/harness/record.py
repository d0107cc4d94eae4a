"""Records: what a benchmark found, as JSON, with its arguments and the environment."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from sparring.environment import environment
from sparring.files import replacing

Facts = dict[str, str | int]  # `sparring.environment.environment()`, when a run began


def write(file: Path, contents: Mapping[str, Any]) -> None:
    """Replace a record in one go."""
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")


def write_found(options: argparse.Namespace, *, paths: Collection[str] = (), **found: Any) -> None:
    """Write what was found, if --json asks for it, with the options as text; those that are `paths` are left out."""
    if options.json is None:
        return
    hidden = {"json", *paths}
    arguments = {name: str(value) for name, value in vars(options).items() if name not in hidden}
    write(options.json, {"arguments": arguments, "environment": environment(), **found})


def save(benchmark: str, arguments: argparse.Namespace, facts: Facts, **measured: Any) -> None:
    """Write a record of times, if --json asks for one: anew after each, for an interrupted run to keep what it has."""
    if arguments.json is None:
        return
    contents = {
        "benchmark": benchmark,
        "data": "synthetic: uniform 8-bit noise, random labels",
        "arguments": {name: value for name, value in vars(arguments).items() if name != "json"},  # no paths
        "environment": facts,
        "tf32": torch.backends.cudnn.allow_tf32,
        **measured,
    }
    write(arguments.json, contents)
