"""From YAML and command-line overrides to dataclasses and back, with errors that fit in a sentence.

Knows nothing about what the dataclasses mean: their fields and type hints say what a configuration may hold. A field of an
abstract type names its class: `method: TRADES`, `method: TRADES(beta=4)`, or `class_path: sparring.methods.TRADES` with
`init_args`; on the command line, `--method TRADES --method.beta 4`. Overrides change what they name and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sparring.configuration.classes import class_path, keys, without_none
from sparring.configuration.reader import Reader
from sparring.configuration.settings import from_mapping, from_options, loaded
from sparring.errors import BadInput
from sparring.threat import Ratio

__all__ = ["read", "to_yaml"]

T = TypeVar("T")


def read(kind: type[T], source: Path | str | None, overrides: Sequence[str] = ()) -> T:
    """Return a dataclass from a YAML file (or its text) and overrides such as `--optimisation.epochs 30`; later ones win.

    Raises BadInput for a file that cannot be read, unknown keys, and values of the wrong type or range.
    """
    origin = str(source) if isinstance(source, Path) else "the configuration"
    try:
        content = {} if source is None else loaded(source, origin)
        if not isinstance(content, dict):
            raise BadInput(
                f"{origin} does not hold a configuration: it must map keys such as method and data to values."
            )
        return Reader(kind, origin).section(kind, [*from_mapping(content), *from_options(overrides)])
    except RecursionError as error:
        raise BadInput(f"{origin} is nested too deeply.") from error


def to_yaml(value: object) -> str:
    """Return a dataclass as YAML that `read` turns into an equal one; every field is written."""
    return str(yaml.safe_dump(_plain(value, type(value)), sort_keys=False, allow_unicode=True))


def _plain(value: object, hint: Any) -> object:
    """Return dataclasses as mappings, tuples as lists, ratios as they were written."""
    if isinstance(value, Ratio):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item, None) for item in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    content = {name: _plain(getattr(value, name), hint) for name, hint in keys(type(value)).items()}
    if inspect.isabstract(without_none(hint)):
        return {"class_path": class_path(type(value)), "init_args": content}
    return content
