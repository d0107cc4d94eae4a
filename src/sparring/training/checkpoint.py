"""Complete checkpoints: written atomically, read without unpickling anything but tensors and plain values."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from sparring.errors import BadInput
from sparring.files import replacing


def save(state: dict[str, Any], path: Path) -> None:
    """Write the state; raises BadInput if the disk is full, and the previous checkpoint stays."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a state; raises BadInput if the file is missing or not a checkpoint of ours."""
    if not path.is_file():
        raise BadInput(f"There is no checkpoint {path}.")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BadInput(f"{path} is not a readable checkpoint: delete it, or resume another run.") from error
    if not isinstance(state, dict):
        raise BadInput(f"{path} is not a checkpoint of a Sparring run.")
    return state


def link(source: Path, path: Path) -> None:
    """Make `path` the same file as `source`, at no cost in space; a later `save` to either leaves the other alone."""
    with replacing(path) as temporary:
        os.link(source, temporary)
