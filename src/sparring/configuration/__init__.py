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
from sparring.configuration.settings import Setting, from_mapping, from_options, loaded
from sparring.configuration.values import converted
from sparring.errors import BadInput
from sparring.threat import Ratio, Threat, multiple_of_radius

__all__ = ["read", "to_yaml"]

T = TypeVar("T")


def read(kind: type[T], source: Path | str | None, overrides: Sequence[str] = (), *, partly: bool = False) -> T:
    """Return a dataclass from a YAML file (or its text) and overrides such as `--optimisation.epochs 30`; later ones win.

    With `partly` the file may hold other sections, which are not looked at: nothing that they name is imported.

    Raises BadInput for a file that cannot be read, unknown keys, and values of the wrong type or range.
    """
    origin = str(source) if isinstance(source, Path) else "the configuration"
    try:
        content = {} if source is None else loaded(source, origin)
        if not isinstance(content, dict):
            raise BadInput(
                f"{origin} does not hold a configuration: it must map keys such as method and data to values."
            )
        if partly:
            content = {key: value for key, value in content.items() if key in keys(kind)}
        settings = [*from_mapping(content), *from_options(overrides)]
        return Reader(kind, origin, _radius(settings)).section(kind, settings)
    except RecursionError as error:
        raise BadInput(f"{origin} is nested too deeply.") from error


def _radius(settings: Sequence[Setting]) -> Ratio:
    """Return the threat's radius, which is read before all else: other settings may be multiples of it."""
    usual = Threat().eps
    given = [setting.value for setting in settings if setting.path == ("threat", "eps")]
    if not given or given[-1] is ...:  # an option without a value is refused in its place
        return usual
    if isinstance(given[-1], str) and multiple_of_radius(given[-1].strip(), usual):
        raise BadInput(
            f"threat.eps cannot be {given[-1]!r}, a multiple of itself: write a number such as 8/255 or 0.03."
        )
    radius = converted(Ratio, given[-1], "threat.eps", usual)
    assert isinstance(radius, Ratio)
    return radius


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
