"""A description survives its YAML, and a broken one says which file and which value."""

from __future__ import annotations

import pytest

from sparring.errors import BadInput
from sparring.models import ModelDescription
from sparring.models.description import from_yaml, to_yaml


@pytest.mark.parametrize(
    "description",
    [
        ModelDescription("resnet18", 2),
        ModelDescription("resnet18", 3, ("no", "1", "tench: Tinca, é"), 1, (28, 20), 16, 2),
        ModelDescription("timm:convnext_tiny.fb_in1k", 1000, tuple(map(str, range(1000))), size=224),
    ],
)
def test_round_trip(description: ModelDescription) -> None:
    assert from_yaml(to_yaml(description), "model.yaml") == description


GOOD = to_yaml(ModelDescription("resnet18", 2, ("a", "b"), 3, (32, 32), 16, 256))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: resnet18", "name: [", "not valid YAML"),
        (GOOD, "", "it holds None"),
        ("width: 16\n", "", "exactly the fields"),
        ("width: 16", "width: 16\ndepth: 2", "it holds .*depth"),
        ("classes: 2", "classes: two", "classes cannot be 'two'"),
        ("channels: 3", "channels: true", "channels cannot be True"),
        ("width: 16", "width: 1.5", "width cannot be 1.5"),
        ("levels: 256", "levels: fine", "levels cannot be 'fine'"),
        ("levels: 256", "", "it holds name, classes, class_names, channels, size, width\\."),
        ("- 32\n- 32\n", "- 32\n", r"size cannot be \[32\]"),
        ("- a\n", "- 1\n", r"class_names cannot be \[1, 'b'\]"),
        ("classes: 2", "classes: 3", "2 class names were given for 3"),
    ],
)
def test_refusals(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(BadInput, match=said) as caught:
        from_yaml(GOOD.replace(old, new), "run/model.yaml")
    assert "\n" not in str(caught.value)
