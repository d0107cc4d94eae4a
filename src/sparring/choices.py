"""Settings that are one of several texts or numbers, or whole numbers: a dataclass refuses others, whoever makes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from numbers import Integral
from typing import Literal, get_args, get_origin, get_type_hints

from sparring.errors import BadInput


def check_choices(settings: object) -> None:
    """Raise BadInput where a dataclass's field of type Literal, tuple of Literals, or int holds something else.

    Fields that are not given to the constructor are passed over, as are classes whose annotations cannot be resolved from
    their module, such as those defined inside a function.
    """
    for name, options, several in _choices(type(settings)):  # type: ignore[arg-type]  # classes can be hashed
        value = getattr(settings, name)
        for chosen in value if several else (value,):
            check_choice(f"{type(settings).__name__}'s {name}", chosen, options)
    for name in _whole_numbers(type(settings)):  # type: ignore[arg-type]
        value = getattr(settings, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise BadInput(f"{type(settings).__name__}'s {name} must be a whole number, not {value!r}.")


def check_choice(name: str, value: object, options: tuple[object, ...]) -> None:
    """Raise BadInput where what is called `name` is none of the options."""
    if value not in options:
        raise BadInput(f"{name} cannot be {value!r}: write {either(options)}.")


def either(options: Iterable[object]) -> str:
    """Return the options as a sentence lists them: 'ce' or 'margin'."""
    return " or ".join(map(repr, options))


@cache
def _whole_numbers(kind: type) -> tuple[str, ...]:
    """Return the fields that hold a whole number, or None where that is one of their types."""
    try:
        hints = get_type_hints(kind)
    except NameError:
        return ()
    return tuple(f.name for f in fields(kind) if f.init and hints[f.name] in (int, int | None))


@cache
def _choices(kind: type) -> tuple[tuple[str, tuple[object, ...], bool], ...]:
    """Return the fields with choices: name, options, and whether a tuple holds several of them."""
    try:
        hints = get_type_hints(kind)
    except NameError:
        return ()
    found = []
    for f in (f for f in fields(kind) if f.init):
        hint, several = hints[f.name], False
        if get_origin(hint) is tuple:
            hint, several = get_args(hint)[0], True
        if get_origin(hint) is Literal:
            found.append((f.name, get_args(hint), several))
    return tuple(found)
