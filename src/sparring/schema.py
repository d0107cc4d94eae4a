"""Whether a mapping has the shape of a dataclass: keys that exist, sections where sections belong, classes that are known.

Values are left to whoever reads the mapping. Knows nothing about files or the command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

from sparring.errors import BadInput, unknown
from sparring.methods import Wrapper


def check(kind: type, content: object, place: str = "", whole: type | None = None) -> None:
    """Raises BadInput for the first thing in `content` that a dataclass `kind`, at `place` in `whole`, has no room for."""
    whole = whole or kind
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind) if f.init]
    if not isinstance(content, dict):
        raise BadInput(f"{place} is a section with the keys {', '.join(known)}: {content!r} cannot stand for it.")
    for key, value in content.items():
        if key not in known:
            raise _unknown_key(str(key), known, whole)
        inside = f"{place}.{key}" if place else key
        section = _without_none(hints[key])
        if value is None and section is not hints[key]:  # null, where it is allowed
            continue
        if inspect.isabstract(section):
            _check_choice(section, value, inside, whole)
        elif is_dataclass(section):
            check(section, value, inside, whole)


def concrete(base: Any) -> Iterator[type]:
    """The classes that can be chosen for a field of an abstract type."""
    for child in base.__subclasses__():
        if not inspect.isabstract(child) and child is not Wrapper:
            yield child
        yield from concrete(child)


def paths(kind: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a dataclass: method, method.beta, optimisation.lr; of an abstract field, those of all its classes."""
    for chosen in concrete(kind) if inspect.isabstract(kind) else [kind]:
        hints = get_type_hints(chosen)
        for name in (f.name for f in fields(chosen) if f.init):
            yield prefix + name
            section = _without_none(hints[name])
            if is_dataclass(section) and section is not kind:  # a method in a method: its keys are listed already
                yield from paths(section, f"{prefix}{name}.")


def choices(kind: Any, place: str) -> set[str]:
    """The names of the classes that can be chosen at a place such as optimisation.schedule or method.inner."""
    options = [kind]
    for name in place.split("."):
        hints = [get_type_hints(option) for option in options if is_dataclass(option)]
        found = {_without_none(hint[name]) for hint in hints if name in hint}
        options = [chosen for base in found for chosen in (concrete(base) if inspect.isabstract(base) else [base])]
    return {option.__name__ for option in options}


def class_path(chosen: type) -> str:
    """The shortest path that imports the class: sparring.methods.TRADES, not sparring.methods.trades.TRADES."""
    module = chosen.__module__
    package = module.rpartition(".")[0] if module.startswith("sparring.methods.") else module
    return f"{package}.{chosen.__qualname__}"


def _without_none(hint: Any) -> type:
    """The other type of a field that may be None; any other hint as it is."""
    options = [option for option in get_args(hint) if option is not NoneType]
    return options[0] if len(options) == 1 and len(get_args(hint)) == 2 else hint


def _check_choice(base: type, content: object, place: str, whole: type) -> None:
    """A field whose class is to be chosen: its name, or class_path and init_args."""
    options = {chosen.__name__: chosen for chosen in concrete(base)}
    chosen, settings = (content, {}) if isinstance(content, str) else _parts(content, place, options)
    by_path = {path: c for c in options.values() for path in (class_path(c), f"{c.__module__}.{c.__qualname__}")}
    if found := (options | by_path).get(chosen):
        check(found, settings, place, whole)
    elif "." not in chosen or chosen.startswith("sparring."):  # any other path may lead to a class of the user's
        raise unknown(place.rpartition(".")[2], chosen, options)


def _parts(content: object, place: str, options: dict[str, type]) -> tuple[str, object]:
    if content is None:
        raise BadInput(f"the configuration does not say which {place}: add the key {place}.")
    if not isinstance(content, dict) or not isinstance(content.get("class_path"), str):
        raise BadInput(f"{place} needs a class_path, one of {', '.join(options)}: {content!r} cannot stand for it.")
    if extra := [key for key in content if key not in ("class_path", "init_args")]:
        raise BadInput(f"{place} has the key {extra[0]!r} beside class_path: write it below {place}.init_args.")
    return content["class_path"], content.get("init_args") or {}


def _unknown_key(key: str, known: list[str], whole: type) -> BadInput:
    elsewhere = sorted(
        (path for path in paths(whole) if path.rpartition(".")[2] == key), key=lambda path: path.count(".")
    )
    if elsewhere:
        where = " outside all sections" if elsewhere[0] == key else ""
        return BadInput(f"Unknown key {key!r}: did you mean {elsewhere[0]!r}{where}?")
    return unknown("key", key, known)
