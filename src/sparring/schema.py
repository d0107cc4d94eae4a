"""Whether a mapping has the shape of a dataclass: keys that exist, sections where sections belong, classes that are known.

Values are left to whoever reads the mapping. Knows nothing about files or the command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

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
        if inspect.isabstract(hints[key]):
            _check_choice(hints[key], value, inside, whole)
        elif is_dataclass(hints[key]):
            check(hints[key], value, inside, whole)


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
            nested = prefix and inspect.isabstract(hints[name])  # a method in a method: its keys are listed already
            if is_dataclass(hints[name]) and not nested:
                yield from paths(hints[name], f"{prefix}{name}.")


def class_path(chosen: type) -> str:
    """The shortest path that imports the class: sparring.methods.TRADES, not sparring.methods.trades.TRADES."""
    module = chosen.__module__
    package = module.rpartition(".")[0] if module.startswith("sparring.methods.") else module
    return f"{package}.{chosen.__qualname__}"


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
