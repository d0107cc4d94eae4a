"""Somebody else's network, by the function that makes it: `package.module:function`."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from torch import nn

from sparring.errors import BadInput, first_line

_REFERENCE = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)")


def is_reference(text: str) -> bool:
    """Return whether the text looks like `package.module:function`."""
    return _REFERENCE.fullmatch(text) is not None


def imported(reference: str) -> nn.Module:
    """Return what the function returns when it is called without arguments: a network, in evaluation mode.

    The module is looked for in the working folder and where Python looks. It is the user's own program and is run as
    such. Raises BadInput if there is no such module or function, if it fails, or if it returns something else.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise BadInput(f"{reference!r} is not of the form package.module:function.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        make = getattr(importlib.import_module(match["module"]), match["function"])
    except ModuleNotFoundError as error:
        raise BadInput(f"{reference}: there is no module {error.name!r} here or where Python looks.") from error
    except AttributeError as error:
        raise BadInput(f"{reference}: the module has no {match['function']!r}: {error}.") from error
    try:
        model = make()
    except Exception as error:  # it is not ours: it may fail in any way
        raise BadInput(f"{reference} failed with {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise BadInput(f"{reference} returned {type(model).__name__}, not a torch.nn.Module.")
    return model.eval()
