"""What a configuration may hold, as the dataclasses tell: their keys, and the classes to choose from."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sparring.errors import BadInput, unknown
from sparring.importing import attribute
from sparring.methods import Wrapper

T = TypeVar("T")


def keys(kind: Any) -> dict[str, Any]:
    """Return the fields that a configuration may give, with their types."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind) if f.init}


def positional(kind: Any) -> list[str]:
    """Return the fields that may be given without their names, in their order."""
    return [f.name for f in fields(kind) if f.init and not f.kw_only]


def former_keys(kind: Any) -> dict[str, str]:
    """Return the keys of the version before that are called otherwise now: former name to present name."""
    return {f.metadata["formerly"]: f.name for f in fields(kind) if "formerly" in f.metadata}


def without_none(hint: Any) -> Any:
    """Return the other type of a field that may be None, and any other hint as it is."""
    options = [option for option in get_args(hint) if option is not NoneType]
    return options[0] if get_origin(hint) in (Union, UnionType) and len(options) == 1 else hint


def choices(base: type[T]) -> dict[str, type[T]]:
    """Return the classes for a field of an abstract type by their names; Sparring's own keep theirs."""
    known = sorted(_concrete(base), key=lambda chosen: chosen.__module__.startswith("sparring."))
    return {chosen.__name__: chosen for chosen in known}


def listed(base: type) -> str:
    """Return the names of the `choices`, for a sentence."""
    return ", ".join(sorted(choices(base)))


def find(base: type[T], name: str, place: str) -> type[T]:
    """Return the class of that name, or at that dotted path; nothing but what is named is imported.

    Raises BadInput where there is none, or it cannot stand for `base` at this place.
    """
    options = choices(base)
    if name in options:
        return options[name]
    module, _, own_name = name.rpartition(".")
    if not module or not all(part.isidentifier() for part in name.split(".")):
        raise unknown(place.rpartition(".")[2], name, options)
    try:
        found = attribute(module, own_name, f"{place} {name!r} cannot be imported")
    except BadInput as error:
        if module.partition(".")[0] == "sparring":
            raise unknown(place.rpartition(".")[2], name, map(class_path, options.values())) from error
        raise
    if inspect.isclass(found) and issubclass(found, base) and not _is_base(found):
        if "__init__" in vars(found) and "__dataclass_params__" not in vars(found):
            raise BadInput(f"{place} {name!r} has an __init__ of its own: make it a @dataclass, its settings fields.")
        return found
    reason = "is only a base" if inspect.isclass(found) and issubclass(found, base) else f"is no {base.__name__}"
    raise BadInput(f"{place} cannot be {name!r}, which {reason}: choose one of {listed(base)}.")


def class_path(chosen: type) -> str:
    """Return the shortest path that imports a class: sparring.methods.TRADES, not sparring.methods.trades.TRADES."""
    module = chosen.__module__
    package = module.rpartition(".")[0] if module.startswith("sparring.methods.") else module
    return f"{package}.{chosen.__qualname__}"


def paths(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield every key: method, method.beta, optimisation.lr; of an abstract field, those of all its classes."""
    for chosen in choices(kind).values() if inspect.isabstract(kind) else [kind]:
        for name, hint in keys(chosen).items():
            yield prefix + name
            section = without_none(hint)
            if is_dataclass(section) and section is not kind:  # a method in a method: its keys are listed already
                yield from paths(section, f"{prefix}{name}.")


def _is_base(kind: type) -> bool:
    return inspect.isabstract(kind) or kind is Wrapper


def _concrete(base: type[T]) -> Iterator[type[T]]:
    for child in base.__subclasses__():
        if not _is_base(child):
            yield child
        yield from _concrete(child)
