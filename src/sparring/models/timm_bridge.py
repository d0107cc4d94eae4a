"""Any image classifier of timm (Wightman, 2019), trained or not, checked before the first batch."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from sparring.errors import BadInput, first_line
from sparring.terminal import errors_alone

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

# timm is imported where it is needed: it takes seconds, and most runs do without.


class Statistics(NamedTuple):
    """What a trained network's images were normalised with: a value a channel, in pixel fractions."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def knows(name: str) -> bool:
    """Return whether timm has an architecture of this name; a tag of weights after a dot is ignored."""
    import timm

    return bool(timm.is_model(name))


def create(name: str, classes: int, channels: int, size: tuple[int, int], *, pretrained: bool) -> nn.Module:
    """Return the timm network `name` (such as `resnet50` or `resnet50.a1_in1k`), with a head for `classes`.

    Raises:
        BadInput: an unknown name, a size the network cannot take, or weights that do not exist or cannot be downloaded.
    """
    _check_name(name)
    _check_size(name, classes, channels, size)
    if not pretrained:
        return _build(name, classes, channels, size, pretrained=False)
    _weights_of(name)  # refuses where there are none, before a byte is fetched
    try:
        with errors_alone("huggingface_hub"):  # which says six times that it tries again
            return _build(name, classes, channels, size, pretrained=True)
    except (OSError, RuntimeError) as error:  # the hub's and requests' errors are OSErrors, timm's are RuntimeErrors
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise BadInput(
            f"The weights of timm:{name} could not be downloaded or read: check the connection, or in a recipe set "
            f"model.pretrained to false ({reason})."
        ) from error


def pretrained_statistics(name: str) -> Statistics:
    """Return the mean and std that timm's weights for `name` were trained with; BadInput where there are none."""
    weights = _weights_of(name)
    return Statistics(tuple(weights.mean), tuple(weights.std))


def _build(name: str, classes: int, channels: int, size: tuple[int, int], *, pretrained: bool) -> nn.Module:
    import timm
    from timm.models import get_pretrained_cfg

    configuration = get_pretrained_cfg(name)
    # Transformers must be told their size; convolutional networks do not take the argument, and timm drops a None.
    fixed = size if configuration is not None and configuration.fixed_input_size else None
    network: nn.Module = timm.create_model(
        name, pretrained=pretrained, num_classes=classes, in_chans=channels, img_size=fixed
    )
    return network


def _check_name(name: str) -> None:
    import timm
    from timm.models import get_pretrained_cfg

    architecture, _, tag = name.partition(".")
    if not knows(architecture):
        raise _unknown(name, timm.list_models())
    try:
        if tag:
            get_pretrained_cfg(name)
    except RuntimeError as error:  # timm's way to say that it has no such tag
        raise _unknown(name, timm.list_pretrained(f"{architecture}.*")) from error


def _unknown(name: str, known: list[str]) -> BadInput:
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)
    hint = f"did you mean 'timm:{nearest[0]}'?" if nearest else "it has no trained weights, leave the tag out."
    return BadInput(f"Unknown timm model 'timm:{name}': {hint}")


def _check_size(name: str, classes: int, channels: int, size: tuple[int, int]) -> None:
    """Run one image through the network on the meta device, which computes shapes and nothing else."""
    try:
        with torch.device("meta"), torch.no_grad():
            network = _build(name, classes, channels, size, pretrained=False).eval()
            network(torch.empty(1, channels, *size))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        height, width = size
        reason = first_line(error)
        raise BadInput(f"timm:{name} cannot take {channels} x {height} x {width} images: {reason}") from error


def _weights_of(name: str) -> PretrainedCfg:
    from timm.models import get_pretrained_cfg

    configuration = get_pretrained_cfg(name)
    if configuration is None or not configuration.has_weights:
        raise BadInput(f"timm has no trained weights for timm:{name}: set pretrained to false.")
    return configuration
