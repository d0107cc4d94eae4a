"""What Sparring says when the input cannot be right: one sentence, with the value and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_LISTED = 5


class BadInput(ValueError):
    """A value that the user gave cannot be used; the message names it and says what to write instead.

    The command line prints the message without a traceback and exits with status 2.
    """


class NotANumber(BadInput):
    """A network's logits are NaN, so that its accuracy would mean nothing."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, without its full stop; its name where it says nothing."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def shown(value: object) -> str:
    """Return a value as a sentence names it: short ones as they are written, others by their type."""
    return repr(value) if isinstance(value, str | int | float | None) else f"of type {type(value).__name__}"


def some(names: Sequence[object]) -> str:
    """Return the first few of many names, as a sentence lists them."""
    return ", ".join(map(str, names[:_LISTED])) + (", ..." if len(names) > _LISTED else "")


def unknown(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """Return an error for a name that is not among the `known` ones, with the nearest of them as a suggestion."""
    options = {option.lower(): option for option in sorted(known)}
    nearest = difflib.get_close_matches(name.lower(), options, n=1, cutoff=0.6)
    hint = f"did you mean {options[nearest[0]]!r}?" if nearest else _listing(options.values())
    return BadInput(f"Unknown {kind} {name!r}: {hint}")


def _listing(options: Iterable[str]) -> str:
    """Return the options, where they fit in a sentence."""
    text = ", ".join(options)
    return f"known: {text}." if len(text) < 300 else "nothing known is spelled like it."
