"""From YAML and command-line overrides to dataclasses and back, with errors that fit in a sentence.

Knows nothing about what the dataclasses mean. Abstract fields name their class: `class_path: sparring.methods.TRADES` with
`init_args`; on the command line, `--method TRADES --method.beta 4`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TypeVar

import jsonargparse
import yaml
from jsonargparse.typing import register_type

from sparring import schema
from sparring.averaging import Average
from sparring.errors import BadInput, unknown
from sparring.methods import Method
from sparring.schedule import Schedule
from sparring.threat import Ratio

T = TypeVar("T")
_CHOSEN = (Method, Schedule, Average)  # fields of these types name their class

register_type(Ratio, serializer=str, deserializer=Ratio)
jsonargparse.set_parsing_settings(
    import_path_denylist=[]
)  # enforces its own list: no class_path leads to os or builtins


def read(kind: type[T], source: Path | str | None, overrides: Sequence[str] = ()) -> T:
    """A dataclass from a YAML file (or its text) and overrides such as `--optimisation.epochs 30`, later ones winning.

    Raises BadInput for a file that cannot be read, unknown keys, and values of the wrong type or range.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile)
    parser.add_class_arguments(kind)
    origin = str(source) if isinstance(source, Path) else "the configuration"
    text = [] if source is None else ["--config", _checked(kind, source, origin)]
    try:
        chosen = parser.instantiate(parser.parse_args([*text, *overrides]))
        return kind(**{f.name: chosen[f.name] for f in fields(kind)})  # type: ignore[arg-type]
    except (jsonargparse.ArgumentError, argparse.ArgumentError, TypeError, ValueError) as error:
        raise _sentence(error, kind, origin) from error


def to_yaml(value: object) -> str:
    """A dataclass as YAML that `read` turns into an equal one; every field is written."""
    return str(yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True))


def _plain(value: object) -> object:
    """Dataclasses as mappings, tuples as lists, ratios as they were written."""
    if isinstance(value, Ratio):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    content = {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, _CHOSEN):
        return {"class_path": schema.class_path(type(value)), "init_args": content}
    return content


def _checked(kind: type, source: Path | str, origin: str) -> str:
    """The text of a source that is YAML and has the shape of the dataclass."""
    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        content = yaml.safe_load(text)
    except OSError as error:
        raise BadInput(f"{origin} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{origin} does not hold a configuration: it must map keys such as method and data to values.")
    try:
        schema.check(kind, content)
    except BadInput as error:
        raise BadInput(str(error).replace("the configuration", origin)) from error
    return f"# {origin}\n{text}"  # two lines at least: jsonargparse would take one for the name of a file


_NO_CLASS = r"(?:Expected a dot import path string:|Unexpected import path format:|Import path|Importing) ?'?([^\s']*)"
_CLASS_OR_NONE = re.compile(
    r"Does not validate against any of the Union subtypes\n"
    r"\s*Subtypes: \[<class '\w+\.[\w.]+'>, <class 'NoneType'>\]\n\s*Errors:\n"
    r"\s*- ((?:.*\n)+?)\s*- Expected a <class 'NoneType'>\n.*\n\s*Given value: ?(.*)"
)


def _sentence(error: Exception, kind: type, origin: str) -> BadInput:
    """What is wrong in one sentence, out of jsonargparse's indented account of where it was when it found out."""
    if isinstance(error, BadInput):
        return error
    text = _CLASS_OR_NONE.sub(_about_the_class, str(error))
    key = ".".join(re.findall(r'Parser key "([^"]+)"', text))
    reason = text.strip().splitlines()[-1].strip()
    if match := re.search(r"Option '(.+)' is not accepted|does not accept option '(.+)'", reason):
        name = (match[1] or match[2]).partition(".")[0]
        return unknown("key", name, {path.rpartition(".")[2] for path in schema.paths(kind)} - {name})
    if match := re.fullmatch(r"unrecognized arguments: (--[^\s=]+).*", reason):
        return unknown("option", match[1], {f"--{path}" for path in schema.paths(kind)})
    if match := re.search(_NO_CLASS, reason):
        return unknown(key.rpartition(".")[2], match[1], schema.choices(kind, key))
    if re.search(r"is abstract$|implicit class_path", reason):
        return BadInput(f"{key} must name its class, one of {', '.join(sorted(schema.choices(kind, key)))}.")
    if match := re.search(r"Expected an? (.+?)\. Got value: ?(.*)", reason):
        return BadInput(f"{key} cannot be {match[2]!r}: write {_readable_type(match[1])}.")
    if match := re.search(r"Subtypes: (.+)\n(?:.*\n)*\s*Given value: ?(.*)", text):
        return BadInput(f"{key} cannot be {match[2]!r}: write {_readable_type(match[1])}.")
    if match := re.search(r"required: (.+)", reason):
        return BadInput(f"{origin} does not say which {match[1]}: add the key {match[1]}.")
    if key:
        return BadInput(f"{key}: {reason.removeprefix('Not of type Ratio: ')}")
    return BadInput(reason if text != str(error) else f"{origin}: {reason}")  # a class's own sentence needs no place


def _about_the_class(union: re.Match[str]) -> str:
    """Of a class that may be left out, what is wrong with it, without the news that it is not None either."""
    # jsonargparse strikes the value out of a union's errors.
    return union[1].replace("Import path does", f"Import path {union[2]} does")


def _readable_type(text: str) -> str:
    """typing.Literal['a', 'b'] as 'a' or 'b', and <class 'int'> as a whole number."""
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
    literals = re.findall(r"Literal\[(.*?)\]", text)
    classes = re.findall(r"\b(int|float|bool|str)\b", re.sub(r"Literal\[.*?\]", "", text))
    options = [*(part for literal in literals for part in literal.split(", ")), *(words[name] for name in classes)]
    return " or ".join(options) or text
