"""From text to settings: YAML, options of the command line, and short forms such as TRADES(beta=4).

Knows nothing about dataclasses. Nothing that is written is run, and no class is made but plain data.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sparring.errors import BadInput
from sparring.files import read_text


class Setting(NamedTuple):
    """A value for what lies at a path below the place that reads it; `option` is how the command line named it."""

    path: tuple[str, ...]
    value: object
    option: str = ""


def from_mapping(content: object, path: tuple[str, ...] = (), option: str = "") -> Iterator[Setting]:
    """Yield a mapping's values with their paths; the name of a class stands at the path of its section."""
    if not isinstance(content, dict):
        yield Setting(path, content, option)
        return
    if "class_path" in content:
        place = ".".join(path)
        if extra := [key for key in content if key not in ("class_path", "init_args")]:
            raise BadInput(f"{place} has the key {extra[0]!r} beside class_path: write it below {place}.init_args.")
        yield Setting(path, content["class_path"], option)
        content = content.get("init_args") or {}
        if not isinstance(content, dict):
            raise BadInput(f"init_args of {place} is a section: {content!r} cannot stand for it.")
    for key, value in content.items():
        yield from from_mapping(value, (*path, str(key)), option)


def from_options(overrides: Sequence[str]) -> Iterator[Setting]:
    """Yield the settings of `--KEY VALUE` and `--KEY=VALUE`; the value of a KEY without one is `...`."""
    words = list(reversed(overrides))
    while words:
        word = words.pop()
        option, equals, text = word.partition("=")
        if not option.startswith("--") or option == "--":
            raise BadInput(f"{word!r} is not an option: write --KEY VALUE, such as --optimisation.epochs 30.")
        value: object = text
        if not equals:
            value = words.pop() if words and not words[-1].startswith("--") else ...
        if isinstance(value, str) and value[:1] in ("{", "["):
            value = loaded(value, option)
        path = tuple(option.removeprefix("--").split("."))
        yield from from_mapping(None if value in ("null", "~") else value, path, option)


def from_short_form(setting: Setting, place: str, names: Callable[[str], Sequence[str]]) -> Iterator[Setting]:
    """Yield what AWP(TRADES, gamma=0.01) abbreviates, each part as it is written there; any other setting as it is.

    `names` returns, by a class's name, the fields that may be given without theirs, in their order.
    Raises BadInput for what is no such form.
    """
    if setting.path or not isinstance(setting.value, str) or "(" not in setting.value:
        yield setting
        return
    text = setting.value.strip()
    with suppress(SyntaxError, ValueError, MemoryError):
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Call) and not _unpacks(call):
            chosen = ast.unparse(call.func)
            fields = names(chosen)[: len(call.args)] if call.args else ()
            parts = [*zip(fields, call.args, strict=True), *((str(each.arg), each.value) for each in call.keywords)]
            given = {name: _written(part, text) for name, part in parts}
            if len(given) == len(parts):
                yield Setting((), chosen, setting.option)
                yield from (Setting((name,), value, setting.option) for name, value in given.items())
                return
    raise BadInput(
        f"{place} cannot be {text!r}: write a class and its fields, by name or in order, such as TRADES(beta=4)."
    )


def _unpacks(call: ast.Call) -> bool:
    return any(isinstance(part, ast.Starred) for part in call.args) or any(each.arg is None for each in call.keywords)


def _written(node: ast.expr, text: str) -> object:
    """Return a literal's text, items of a list each by itself; whatever is no literal is text, too."""
    match node:
        case ast.Constant(value=str() | None as value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_written(item, text) for item in items]
    return ast.get_source_segment(text, node)


def loaded(source: Path | str, origin: str) -> object:
    """Return what a YAML file, or a YAML text, holds; raises BadInput for what is none."""
    try:
        text = read_text(source) if isinstance(source, Path) else source.removeprefix("\ufeff")
        return yaml.load(text, _Loader)
    except (BadInput, RecursionError):
        raise
    except Exception as error:  # PyYAML itself stumbles in many ways over what stands after !!int or !!bool
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "in ")
        raise BadInput(f"{origin} is not valid YAML: {reason}") from error


_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")


class _Loader(yaml.SafeLoader):
    """Plain data, without a key that is given twice, and without aliases: a few of them can stand for gigabytes."""

    # Whole numbers are decimal, as on the command line: YAML 1.1 takes 010 for 8, and 1:30 for 90.
    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        first: [(tag, _WHOLE if tag == "tag:yaml.org,2002:int" else pattern) for tag, pattern in resolvers]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not read, write the value out", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
