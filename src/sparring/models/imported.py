"""Somebody else's network, by the function that makes it: `package.module:function`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

from torch import nn

from sparring.errors import BadInput
from sparring.importing import attribute, located

_REFERENCE = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)")


def is_reference(text: str) -> bool:
    """Return whether the text looks like `package.module:function`."""
    return _REFERENCE.fullmatch(text) is not None


def _check_parameters(make: Callable[..., object], reference: str) -> None:
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):  # of a function that does not say
        return
    try:
        signature.bind()
    except TypeError as error:
        raise BadInput(
            f"{reference} is called without arguments, but takes {signature} ({error}): give a function that needs none."
        ) from error


def imported(reference: str) -> nn.Module:
    """Return what the function returns when it is called without arguments: a network, in evaluation mode.

    The module is looked for in the working folder and where Python looks. It is the user's own program and is run as
    such. Raises BadInput if there is no such module or function, if it fails, or if it returns something else.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise BadInput(f"{reference!r} is not of the form package.module:function.")
    make = attribute(match["module"], match["function"], reference)
    if isinstance(make, nn.Module) or not callable(make):
        raise BadInput(f"{reference} is of type {type(make).__name__}: give a function that returns the network.")
    _check_parameters(make, reference)
    try:
        model = make()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is not ours: it may fail in any way, or end the program
        raise BadInput(f"{reference} failed: {located(error)}.") from error
    if not isinstance(model, nn.Module):
        raise BadInput(f"{reference} returned {type(model).__name__}, not a torch.nn.Module.")
    return model.eval()
