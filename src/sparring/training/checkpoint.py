"""Complete checkpoints: written atomically, read without unpickling anything but tensors and plain values."""

from __future__ import annotations

import logging
import os
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.files import replacing, zip_is_whole

_LOG = logging.getLogger(__name__)


def save(state: dict[str, Any], path: Path) -> None:
    """Write the state; raises BadInput for what `load` could not read, or on a full disk: the previous checkpoint stays."""
    _check(state, "")
    with replacing(path) as temporary:
        torch.save(state, temporary)


_PLAIN = (bool, int, float, str, bytes, type(None), Tensor, nn.Parameter, torch.Size, torch.dtype, torch.device)


def _check(value: Any, place: str) -> None:
    """Raise BadInput unless the value is made of tensors and plain values alone."""
    if type(value) in (dict, OrderedDict):
        for key, inside in value.items():
            _check(key, f"{place} (a key)")
            _check(inside, f"{place}.{key}" if place else str(key))
    elif type(value) in (list, tuple):
        for number, inside in enumerate(value):
            _check(inside, f"{place}[{number}]")
    elif type(value) not in _PLAIN:
        kind = type(value)
        raise BadInput(
            f"A checkpoint cannot hold {place}, a {kind.__module__}.{kind.__qualname__}: keep a tensor or a plain number."
        )


def load(path: Path, device: torch.device | str = "cpu", needed: Sequence[str] = ()) -> dict[str, Any]:
    """Read a state; raises BadInput if the file is missing, damaged, not of ours, or lacks one of the needed parts."""
    if not path.is_file():
        raise BadInput(f"There is no checkpoint {path}.")
    whole = zip_is_whole(path)
    if whole is None:
        _LOG.warning("%s was written without checksums: damage would not be noticed.", path)
    elif not whole:
        raise BadInput(f"{path} is damaged, or no checkpoint: restore it, or start a new run.")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BadInput(f"{path} is not a readable checkpoint: delete it, or resume another run.") from error
    if not isinstance(state, dict):
        raise BadInput(f"{path} is not a checkpoint of a Sparring run.")
    if missing := [key for key in needed if key not in state]:
        raise BadInput(f"{path} lacks {missing[0]!r}: it is no checkpoint of this version. Start a new run.")
    return state


def configuration(path: Path) -> str | None:
    """Return the configuration that a checkpoint was written with; None where it holds none, or cannot be read."""
    try:
        # Mapped, which leaves the tensors on the disk.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # absent, damaged, or of somebody else's: `load` says what is wrong
        return None
    held = state.get("configuration") if isinstance(state, dict) else None
    return held if isinstance(held, str) else None


def link(source: Path, path: Path) -> None:
    """Make `path` the same file as `source`, at no cost in space; a later `save` to either leaves the other alone."""
    with replacing(path) as temporary:
        os.link(source, temporary)
