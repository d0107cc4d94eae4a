"""Settings and arguments of the right kind: one of several texts, a whole number, a class's; whoever gives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sparring.errors import BadInput, shown

_WORDS: dict[object, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
    Callable: "a function",
}


def check_choices(settings: object) -> None:
    """Raise BadInput where a dataclass's field holds something that its annotation does not allow.

    Fields that are not given to the constructor are passed over, as are classes whose annotations cannot be resolved from
    their module, such as those defined inside a function.
    """
    for name, kind in _kinds(type(settings)).items():  # type: ignore[arg-type]  # classes can be hashed
        check_kind(f"{type(settings).__name__}'s {name}", getattr(settings, name), kind)


def check_choice(name: str, value: object, options: tuple[object, ...]) -> None:
    """Raise BadInput where what is called `name` is none of the options."""
    if value not in options:
        raise BadInput(f"{name} cannot be {value!r}: write {either(options)}.")


def check_kind(name: str, value: object, kind: Any) -> None:
    """Raise BadInput where what is called `name` is not of a kind, which is written as an annotation.

    Known are bool, int, float (any number but NaN), str, Literal, Callable, lists and tuples of them, classes, and unions;
    what else an annotation may say is not checked.
    """
    if _fits(value, kind):
        return
    kinds = _parts(kind)
    for each in kinds:
        if get_origin(each) is Literal:
            check_choice(name, value, get_args(each))
        if get_origin(each) is tuple and isinstance(value, list | tuple):
            for item in value:
                check_kind(name, item, get_args(each)[0])
    wanted = " or ".join(_words(each) for each in kinds if each is not NoneType)
    if isinstance(value, type):
        raise BadInput(f"{name} must be {wanted}, not the class {value.__name__}: make one, {value.__name__}(...).")
    raise BadInput(f"{name} must be {wanted}, not {shown(value)}.")


def either(options: Iterable[object]) -> str:
    """Return the options as a sentence lists them: 'ce' or 'margin'."""
    return " or ".join(map(repr, options))


@cache
def _kinds(settings: type) -> Mapping[str, Any]:
    """Return the annotations of the fields that are given to the constructor."""
    try:
        hints = get_type_hints(settings)
    except NameError:
        return {}
    return {f.name: hints[f.name] for f in fields(settings) if f.init}


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _fits(value: object, kind: Any) -> bool:
    return any(_is(value, each) for each in _parts(kind))


def _is(value: object, kind: Any) -> bool:
    """Return whether a value is of a kind that is no union; of unknown ones, each is."""
    origin = get_origin(kind) or kind
    if origin is Literal:
        return value in get_args(kind)
    if origin is tuple:
        items = get_args(kind)[:1]
        return isinstance(value, list | tuple) and all(_fits(item, each) for item in value for each in items)
    if origin is Callable:
        return callable(value)
    if kind is int:
        return not isinstance(value, bool) and isinstance(value, Integral)
    if kind is float:
        return not isinstance(value, bool) and isinstance(value, Real) and not math.isnan(value)
    if not isinstance(kind, type) or issubclass(kind, float):  # such as Ratio, which says itself what it is made from
        return True
    try:
        return isinstance(value, kind)
    except TypeError:  # Any, for one, and protocols cannot be asked
        return True


def _words(kind: Any) -> str:
    return _WORDS.get(get_origin(kind) or kind, f"of type {getattr(kind, '__name__', kind)}")
