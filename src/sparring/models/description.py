"""What must be known to rebuild a network before its weights can be read, as a small YAML text."""

from __future__ import annotations

from dataclasses import dataclass, fields

import yaml

from sparring.choices import check_choices
from sparring.errors import BadInput


@dataclass(frozen=True)
class ModelDescription:
    """The arguments of `create` that fix a network's shape, and the names of its classes.

    Normalisation is absent on purpose: it is among the weights.

    Raises:
        BadInput: a value of another kind; there are names for another number of classes.
    """

    name: str
    classes: int
    class_names: tuple[str, ...] = ()  # in the order of the logits; empty where the data has no names
    channels: int = 3
    size: int | tuple[int, int] = 32  # pixels: a side or (H, W)
    width: int | None = None
    levels: int | None = None  # values that a pixel is rounded to inside the network; None does not round

    def __post_init__(self) -> None:
        check_choices(self)
        if self.class_names and len(self.class_names) != self.classes:
            raise BadInput(f"{len(self.class_names)} class names were given for {self.classes} classes.")


def to_yaml(description: ModelDescription) -> str:
    """Return the description as YAML, one field a line."""
    content = {field.name: getattr(description, field.name) for field in fields(description)}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in content.items()}
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def from_yaml(text: str, origin: str) -> ModelDescription:
    """Return the description in `text`; `origin` names the file in messages.

    Raises:
        BadInput: not YAML, not a mapping, an unknown or missing field, or a value of the wrong type.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error
    expected = [field.name for field in fields(ModelDescription)]
    if not isinstance(content, dict) or set(content) != set(expected):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else repr(content)
        raise BadInput(f"{origin} must hold exactly the fields {', '.join(expected)}; it holds {found}.")
    for key, value in content.items():
        if not _fits(key, value):
            raise BadInput(f"{origin}: {key} cannot be {value!r}.")
    size = content["size"]
    return ModelDescription(
        name=content["name"],
        classes=content["classes"],
        class_names=tuple(content["class_names"]),
        channels=content["channels"],
        size=size if isinstance(size, int) else (size[0], size[1]),
        width=content["width"],
        levels=content["levels"],
    )


def _fits(key: str, value: object) -> bool:
    match key:
        case "name":
            return isinstance(value, str)
        case "class_names":
            return isinstance(value, list) and all(isinstance(name, str) for name in value)
        case "size" if isinstance(value, list):
            return len(value) == 2 and all(type(side) is int for side in value)
        case "width" | "levels" if value is None:
            return True
        case _:
            return type(value) is int  # not isinstance: a bool is no count
