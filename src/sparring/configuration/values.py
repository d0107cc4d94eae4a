"""Single values and lists of them: what YAML or an option holds, as the type of a field."""

from __future__ import annotations

import math
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from yaml import SafeLoader

from sparring.choices import either
from sparring.errors import BadInput
from sparring.threat import Ratio, multiple_of_radius

_SCALARS: dict[Any, tuple[str, tuple[type, ...]]] = {  # how each is described, and what it is made from
    int: ("a whole number", (int, str)),
    float: ("a number", (int, float, str)),
    bool: ("true or false", (bool, str)),
    str: ("a text", (str,)),
    Ratio: ("a decimal such as 0.03 or a fraction such as 8/255", (int, float, str)),
    NoneType: ("null", ()),
}


def converted(hint: Any, content: Any, place: str, radius: Ratio) -> object:
    """Return `content` as a value of the type; raises BadInput, with the place and what to write, if it is none.

    A multiple of the radius, such as eps/4, is a value where a `Ratio` is due.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Ratio and isinstance(content, str) and (number := multiple_of_radius(content.strip(), radius)):
        return number
    with suppress(ArithmeticError, LookupError, ValueError):
        if origin is Literal:
            return {str(option): option for option in parts}[str(content)]
        if type(content) in _SCALARS.get(hint, ("", ()))[1]:
            value = SafeLoader.bool_values[str(content).lower()] if hint is bool else hint(content)
            if hint is not float or math.isfinite(value):
                return value
    if origin in (Union, UnionType):
        for part in parts:
            with suppress(BadInput):
                return converted(part, content, place, radius)
    if origin in (tuple, list) and isinstance(content, list):
        hints = parts[:1] * len(content) if origin is list or parts[-1] is ... else parts
        if len(hints) == len(content):
            return origin(converted(hints[i], item, f"{place}[{i}]", radius) for i, item in enumerate(content))
    raise BadInput(f"{place} cannot be {str(content)!r}: write {_expected(hint)}.")


def _expected(hint: Any) -> str:
    """Return what a value of the type looks like."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return either(parts)
    if origin in (Union, UnionType):
        return " or ".join(map(_expected, parts))
    if origin in (tuple, list):
        return "a list" if origin is list or parts[-1] is ... else f"a list of {len(parts)}"
    return _SCALARS[hint][0] if hint in _SCALARS else str(hint)
