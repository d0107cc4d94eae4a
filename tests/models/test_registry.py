"""Names, aliases and widths; what cannot be is refused with the value in the sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparring.errors import BadInput
from sparring.models import Normalised, create, names


def test_every_listed_name_can_be_created() -> None:
    own = [name for name in names() if name != "timm:<name>"]
    assert len(own) == len(names()) - 1
    for name in own:
        with torch.device("meta"):
            assert isinstance(create(name, 10), Normalised)


def test_the_depths_and_widths_of_the_papers_are_listed() -> None:
    for size in ("28-10", "32-10", "34-10", "34-20", "70-16"):
        assert f"wideresnet-{size}" in names()


def test_the_alias_is_the_same_network() -> None:
    with torch.device("meta"):
        long, short = create("wideresnet-16-2", 10), create("wrn-16-2", 10)
    assert {k: v.shape for k, v in long.state_dict().items()} == {k: v.shape for k, v in short.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "key", "default"),
    [
        ("resnet18", "network.conv1.weight", 64),
        ("preactresnet18", "network.conv1.weight", 64),
        ("preactresnet18-talk", "network.conv1.weight", 64),
        ("smallconv", "network.stage1.0.weight", 32),
    ],
)
def test_width_is_the_channels_of_the_first_stage(name: str, key: str, default: int) -> None:
    with torch.device("meta"):
        assert create(name, 10).get_parameter(key).shape[0] == default
        assert create(name, 10, width=5).get_parameter(key).shape[0] == 5


@pytest.mark.parametrize(
    ("name", "classes", "options", "said"),
    [
        ("resnet18", 1, {}, "classes must be at least 2, got 1"),
        ("resnet18", 10, {"channels": 0}, "channels must be at least 1, got 0"),
        ("resnet18", 10, {"width": 0}, "width must be at least 1, got 0"),
        ("resnet18", 10, {"size": 2}, "at least 8x8 pixels, got 2x2"),
        ("resnet18", 10, {"size": (32, 7)}, "at least 8x8 pixels, got 32x7"),
        ("resnet18", 10, {"size": -3}, "size must be at least 1, got -3"),
        ("resnet18", 10, {"size": (3, 32, 32)}, r"got \(3, 32, 32\)"),
        ("preactresnet18-talk", 10, {"size": 31}, "at least 32x32 pixels, got 31x31"),
        ("wideresnet-10-1", 10, {"size": 3}, "at least 4x4 pixels, got 3x3"),
        ("wideresnet-28-10", 10, {"width": 16}, "'wideresnet-28-10' has no width to set, got 16"),
        ("timm:test_resnet", 10, {"width": 16}, "'timm:test_resnet' has no width to set, got 16"),
        ("wideresnet-30-10", 10, {}, "30 is not: take 28 or 34"),
        ("wrn-4-1", 10, {}, "4 is not: take 10 or 16"),
        ("wrn-28-0", 10, {}, "at least 1, got 0"),
        ("resnet81", 10, {}, "'resnet81': did you mean 'resnet18'"),
        ("wideresnet-28", 10, {}, "'wideresnet-28': did you mean 'wideresnet-28-10'"),
        ("convnext_tiny", 10, {}, "did you mean 'timm:convnext_tiny'"),
        ("resnet18", 10, {"pretrained": True}, "no pretrained weights for 'resnet18'"),
    ],
)
def test_refusals_name_the_value(name: str, classes: int, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        create(name, classes, **options)
