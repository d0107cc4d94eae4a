"""The recipes, such as `cifar10/trades`: complete experiments, composed of layers that are written once.

Four folders of YAML hold them. `protocols/<data set>`: its images, network, threat and optimisation. `methods/<method>`:
what a method adds, on every data set. `released/` and `ours/`: what authors' code does otherwise, and what we do. A layer
says with `base: [cifar10/trades]` which recipe it changes, or with `base: [las-at]` that it changes it on every data set. A
section `on digits, mnist:` is for those data sets alone.
"""

from __future__ import annotations

import re
from functools import cache, reduce
from itertools import takewhile
from pathlib import Path

import yaml

from sparring.errors import BadInput, unknown
from sparring.files import replacing
from sparring.recipes import layers
from sparring.recipes.layers import Layer
from sparring.threat import Ratio

_FOLDER = Path(__file__).parent
_ORIGINS = {"released": "released code", "ours": "ours"}  # of values that do not say; in the other folders all do
_SECTIONS = ("data", "model", "threat", "method", "optimisation")  # in this order, before the others
_LEGEND = "# Behind each value, where it comes from: a paper, its released code, the talk about several papers, or us."


def names() -> list[str]:
    """Return every recipe's name, such as `cifar10/fgsm-mep`."""
    return sorted(_uppermost())


def title(name: str) -> str:
    """Return the first line of a recipe, which says what it is."""
    return _header(name)[0].removeprefix("# ")


def text(name: str, defaults: str = "") -> str:
    """Return a recipe as a whole YAML file: what it is, and every setting with its origin behind it.

    Args:
        name: the recipe's.
        defaults: the recipe's experiment in YAML, of which all values that the recipe does not give are written, too.

    Raises:
        BadInput: there is no such recipe; it names the nearest.
    """
    data = name.partition("/")[0]
    whole: Layer = reduce(layers.over, (_layer(file, data) for file in _stack(name)), {key: {} for key in _SECTIONS})
    if defaults:
        usual = yaml.safe_dump(yaml.safe_load(defaults), default_flow_style=None, sort_keys=False, width=10**6)
        whole = reduce(layers.over, (layers.read(usual, "default"), whole), {key: {} for key in _SECTIONS})
    lines = layers.write(layers.with_numbers(whole, Ratio(whole["threat"]["eps"].text)))
    return "\n".join([*_header(name), _LEGEND, *lines, ""])


def find(name: str) -> str | Path:
    """Return a recipe's text by its name, or a YAML file of the user's by its path; raises BadInput if it is neither."""
    if not name.endswith((".yaml", ".yml")):
        return text(name)
    if not Path(name).is_file():
        raise BadInput(f"There is no file {name}: give the name of a recipe (sparring recipes list) or a YAML file.")
    return Path(name)


def copy(name: str, target: Path, defaults: str = "") -> None:
    """Write a recipe's text to a .yaml file of the user's; raises BadInput for another name, and if it exists already."""
    if target.suffix.lower() not in (".yaml", ".yml"):
        raise BadInput(f"A recipe is a .yaml file: name the file so, not {target}.")
    whole = text(name, defaults)
    if target.exists():
        raise BadInput(f"{target} exists already: name another file, or move it away.")
    with replacing(target) as temporary:
        temporary.write_text(whole, encoding="utf-8")


@cache
def _uppermost() -> dict[str, tuple[Path, str]]:
    """Return of every recipe its uppermost layer and the recipe below it: `cifar10/` where that is the protocol."""
    data_sets = [file.stem for file in _FOLDER.glob("protocols/*.yaml")]
    found = {}
    for file in (file for folder in ("methods", "released", "ours") for file in (_FOLDER / folder).glob("*.yaml")):
        line = re.search(r"^base: .+$", file.read_text(encoding="utf-8"), re.MULTILINE)
        for base in yaml.safe_load(line[0])["base"] if line else [""]:
            for below in [base] if "/" in base else [f"{data}/{base}" for data in data_sets]:
                found[f"{below.partition('/')[0]}/{file.stem}"] = file, below
    return found


def _stack(name: str) -> list[Path]:
    """Return the files of a recipe's layers, the data set's protocol first."""
    if name not in _uppermost():
        raise unknown("recipe", name, names())
    file, below = _uppermost()[name]
    beneath = [_FOLDER / "protocols" / f"{below[:-1]}.yaml"] if below.endswith("/") else _stack(below)
    return [*beneath, file]


def _layer(file: Path, data: str) -> Layer:
    """Return what a file says of one data set."""
    written = layers.read(file.read_text(encoding="utf-8"), _ORIGINS.get(file.parent.name, ""))
    everywhere = {key: part for key, part in written.items() if key != "base" and not key.startswith("on ")}
    here = [part for key, part in written.items() if key.startswith("on ") and data in key[3:].split(", ")]
    return reduce(layers.over, here, everywhere)


def _header(name: str) -> list[str]:
    """Return the comments above a recipe, the protocol's among them unless released code, or we, change it."""
    protocol, *_, file = _stack(name)
    data, *of_data = _comments(protocol)
    what, *of_method = _comments(file)
    kept = of_data if file.parent.name == "methods" else []
    return [what.replace("{data}", data.removeprefix("# ")), *kept, *of_method]


def _comments(file: Path) -> list[str]:
    return list(takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines()))
