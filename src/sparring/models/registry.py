"""Networks by name: one table, and the checks that turn an impossible request into a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from sparring.choices import check_kind
from sparring.errors import BadInput, unknown
from sparring.models import timm_bridge
from sparring.models.normalise import Normalised
from sparring.models.preactresnet import GradAlignPreActResNet18, PreActResNet18, TalkPreActResNet18
from sparring.models.resnet import ResNet18
from sparring.models.small import SmallConv
from sparring.models.thermometer import Thermometer
from sparring.models.wideresnet import WideResNet


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and what it accepts."""

    build: Callable[[int, int, tuple[int, int], int | None], nn.Module]  # classes, channels, (H, W), base width
    smallest: int  # the shortest side, in pixels, that its strides leave something of
    takes_width: bool = True


_ARCHITECTURES = {
    "resnet18": Architecture(lambda classes, channels, _, width: ResNet18(classes, channels, width or 64), smallest=8),
    "resnet18-gat": Architecture(
        lambda classes, channels, _, width: ResNet18(classes, channels, width or 64, extra_relu=True), smallest=8
    ),
    "preactresnet18": Architecture(
        lambda classes, channels, _, width: PreActResNet18(classes, channels, width or 64), smallest=8
    ),
    "preactresnet18-wong": Architecture(
        lambda classes, channels, _, width: PreActResNet18(classes, channels, width or 64, projects_raw=True),
        smallest=8,
    ),
    "preactresnet18-gradalign": Architecture(
        lambda classes, channels, _, width: GradAlignPreActResNet18(classes, channels, width or 64), smallest=8
    ),
    "preactresnet18-talk": Architecture(
        lambda classes, channels, size, width: TalkPreActResNet18(classes, channels, size, width or 64), smallest=32
    ),
    "resnet18-thermometer": Architecture(
        lambda classes, channels, _, width: nn.Sequential(
            Thermometer(_LEVELS), ResNet18(classes, channels * _LEVELS, width or 64)
        ),
        smallest=8,
    ),
    "smallconv": Architecture(
        lambda classes, channels, _, width: SmallConv(classes, channels, width or 32), smallest=8
    ),
}
_LEVELS = 16  # of Buckman et al.'s codes
_WIDE = re.compile(r"(?:wideresnet|wrn)-(\d+)-(\d+)")


def names() -> list[str]:
    """Return the names that `create` knows; WideResNets of other depths and every timm model work too."""
    wide = [f"wideresnet-{size}" for size in ("28-10", "32-10", "34-10", "34-20", "70-16")]
    return sorted([*_ARCHITECTURES, *wide, "timm:<name>"])


def named_architectures() -> list[str]:
    """Return the names of our own networks that have no depth in them."""
    return list(_ARCHITECTURES)


def create(
    name: str,
    classes: int,
    *,
    channels: int = 3,
    size: int | Sequence[int] = 32,
    width: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    levels: int | None = None,
    pretrained: bool = False,
) -> Normalised:
    """Return a classifier of images (B, channels, H, W) in [0, 1] that normalises inside and returns logits (B, classes).

    Args:
        name: one of `names()`, such as `resnet18`, `wideresnet-34-10` (or `wrn-34-10`) or `timm:convnext_tiny`.
        classes: at least 2.
        channels: of an image, at least 1.
        size: of an image in pixels, a side or (H, W).
        width: channels of the first stage, for networks that can be narrowed (default: the paper's).
        mean: a value a channel in [0, 1]; None is 0, or what the weights were trained with where pretrained.
        std: a value a channel in (0, 1]; None is 1, or what the weights were trained with where pretrained.
        levels: 2 to 256 values that pixels are rounded to before they are normalised, as a part of the network; None
            does not round.
        pretrained: timm's ImageNet weights; only for `timm:` names.

    Raises:
        BadInput: any of these is unknown or cannot be; the sentence says which and what to write.
    """
    for what, value, kind in (
        *(("The network's name", name, str), ("size", size, int | tuple[int, ...]), ("classes", classes, int)),
        *(("channels", channels, int), ("width", width, int | None), ("pretrained", pretrained, bool)),
    ):
        check_kind(what, value, kind)
    sides = _sides(size)
    _check_at_least("classes", classes, 2)
    _check_at_least("channels", channels, 1)
    if width is not None:
        _check_at_least("width", width, 1)
    if not name.startswith("timm:"):
        return Normalised(_own(name, classes, channels, sides, width, pretrained), channels, mean, std, levels)
    if width is not None:
        raise _no_width(name, width)
    return _timm(name.removeprefix("timm:"), classes, channels, sides, mean, std, levels, pretrained)


def _timm(
    name: str,
    classes: int,
    channels: int,
    size: tuple[int, int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    levels: int | None,
    pretrained: bool,
) -> Normalised:
    network = timm_bridge.create(name, classes, channels, size, pretrained=pretrained)
    if pretrained:
        trained_with = timm_bridge.pretrained_statistics(name)
        mean = trained_with.mean if mean is None else mean
        std = trained_with.std if std is None else std
    return Normalised(network, channels, mean, std, levels)


def _own(
    name: str, classes: int, channels: int, size: tuple[int, int], width: int | None, pretrained: bool
) -> nn.Module:
    architecture = _architecture(name)
    if pretrained:
        raise BadInput(f"There are no pretrained weights for {name!r}: only timm:<name> has some.")
    if width is not None and not architecture.takes_width:
        raise _no_width(name, width)
    if min(size) < architecture.smallest:
        least = architecture.smallest
        raise BadInput(f"{name!r} needs images of at least {least}x{least} pixels, got {size[0]}x{size[1]}.")
    return architecture.build(classes, channels, size, width)


def _architecture(name: str) -> Architecture:
    if name in _ARCHITECTURES:
        return _ARCHITECTURES[name]
    if wide := _WIDE.fullmatch(name):
        depth, widen = int(wide[1]), int(wide[2])
        return Architecture(
            lambda classes, channels, *_: WideResNet(depth, widen, classes, channels), smallest=4, takes_width=False
        )
    if timm_bridge.knows(name):
        raise BadInput(f"Unknown model {name!r}: did you mean 'timm:{name}'?")
    raise unknown("model", name, names())


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2:
        raise BadInput(f"size is a side or (height, width) in pixels, got {size}.")
    for side in sides:
        _check_at_least("size", side, 1)
    return sides[0], sides[1]


def _check_at_least(what: str, value: int, least: int) -> None:
    if value < least:
        raise BadInput(f"{what} must be at least {least}, got {value}.")


def _no_width(name: str, width: int) -> BadInput:
    return BadInput(f"{name!r} has no width to set, got {width}: leave it out, the name fixes it.")
