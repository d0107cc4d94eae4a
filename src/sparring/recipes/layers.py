"""Layers of settings in YAML: read with the origin of every value, laid one over another, written with the origins.

A layer is sections, numbers, words, and lists in brackets: no other YAML is needed, and none is understood.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from sparring.threat import Ratio, multiple_of_radius


@dataclass(frozen=True)
class Value:
    """A value as it is written, such as `8/255`, and where it comes from, such as `paper` or `ours: not tuned`."""

    text: str
    origin: str


Layer = dict[str, Any]  # of sections, which are layers, and Values


def read(text: str, origin: str) -> Layer:
    """Return the layer in a YAML text.

    The comment behind a value is its origin, and one behind a section, or behind its key, that of all values inside
    that have none of their own; `origin` is that of the rest.
    """
    return _section(yaml.compose(text, yaml.SafeLoader), text, origin)


def _section(node: Any, text: str, origin: str) -> Layer:
    layer: Layer = {}
    for key, value in node.value:
        is_section = isinstance(value, yaml.MappingNode)
        end = (key if is_section and not value.flow_style else value).end_mark.index
        comment = re.match(r":? +# (.+)", text[end:])
        inside = comment[1] if comment else origin
        written = " ".join(text[value.start_mark.index : value.end_mark.index].split())
        layer[key.value] = _section(value, text, inside) if is_section else Value(written, inside)
    return layer


def over(base: Layer, layer: Layer) -> Layer:
    """Return `base` changed by `layer`: sections key by key, values and lists whole.

    A section that names another `class_path` replaces the one below it whole, whose `init_args` are another class's.
    """
    if len({section["class_path"].text for section in (base, layer) if "class_path" in section}) == 2:
        return layer
    merged = dict(base)
    for key, new in layer.items():
        old = merged.get(key)
        merged[key] = over(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
    return merged


def with_numbers(layer: Layer, eps: Ratio) -> Layer:
    """Return the layer with what multiples of the radius, such as `5 eps/4`, are at this one beside their origins."""

    def value(old: Value) -> Value:
        number = multiple_of_radius(old.text, eps)
        return old if number is None else Value(old.text, f"{old.origin} ({number})")

    return {key: with_numbers(old, eps) if isinstance(old, dict) else value(old) for key, old in layer.items()}


_COLUMN, _WIDTH = 43, 96  # where the origins stand; where long lists are broken


def write(layer: Layer, indent: str = "") -> Iterator[str]:
    """Yield the lines of a layer in YAML, every value's origin behind it: `read` turns them into the same layer."""
    for key, value in layer.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from write(value, indent + "  ")
        else:
            *first, last = textwrap.wrap(f"{indent}{key}: {value.text}", _WIDTH, subsequent_indent=indent + "  ")
            yield from first
            yield f"{last:{_COLUMN}}  # {value.origin}"
