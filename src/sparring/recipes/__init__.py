"""The recipes: one YAML file a run, `<data set>/<method>.yaml`, and how to find them."""

from __future__ import annotations

from pathlib import Path

from sparring.errors import BadInput, unknown
from sparring.files import replacing

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every recipe's name, such as `cifar10/fgsm-mep`."""
    return sorted(file.relative_to(_FOLDER).with_suffix("").as_posix() for file in _FOLDER.glob("*/*.yaml"))


def path(name: str) -> Path:
    """The file of a recipe. Raises BadInput, with the nearest name, if there is none."""
    if name not in names():
        raise unknown("recipe", name, names())
    return _FOLDER / f"{name}.yaml"


def find(name: str) -> Path:
    """A recipe by its name, or a YAML file of the user's by its path; raises BadInput if it is neither."""
    if not name.endswith((".yaml", ".yml")):
        return path(name)
    if not Path(name).is_file():
        raise BadInput(f"There is no file {name}: give the name of a recipe (sparring recipes list) or a YAML file.")
    return Path(name)


def title(name: str) -> str:
    """The first line of a recipe, which says what it is."""
    return path(name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def copy(name: str, target: Path) -> None:
    """Write a recipe's text to a file of the user's; raises BadInput if the file exists already."""
    text = path(name).read_text(encoding="utf-8")
    if target.exists():
        raise BadInput(f"{target} exists already: name another file, or move it away.")
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
