"""Defences that hide gradients, in front of a network, and each with the attack that sees through it.

Athalye et al. (ICML 2018) broke nine published defences; their code and weights cannot be had, so these are built after
three of them: what they have in common is an input that is transformed without a useful gradient, or at random.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sparring.attacks import BPDA, EOT
from sparring.errors import BadInput
from sparring.models.quantise import quantised
from sparring.models.thermometer import Thermometer

LEVELS, QUALITY, DRAWS = 8, 75, 20
_SMALLEST = 7 / 8  # of the side, what a picture is shrunk to at most


@dataclass(frozen=True)
class Defended:
    """A defended network in three forms that answer alike and differ in the gradient that an attack gets.

    answers: the network as it is asked. naive: with the gradient that the defence itself has, zero or of a single draw.
    adaptive: with one that sees through it.
    """

    answers: nn.Module
    naive: nn.Module
    adaptive: nn.Module


@dataclass(frozen=True)
class Defence:
    """How to put a defence in front of a network: (B, C, H, W) in [0, 1] -> logits (B, K).

    Args:
        name: as tables show it.
        after: the published defence that it is built after, as the talk's table names it; empty for none.
        adaptive: what the attack knows, in words.
        around: puts it around a trained network.
        network: the overrides of the recipe that trains the network.
    """

    name: str
    after: str
    adaptive: str
    around: Callable[[nn.Module], Defended]
    network: tuple[str, ...] = ()


def rounded(x: Tensor) -> Tensor:
    """Return images with each number at the nearest of 8 levels: fewer bits, as feature squeezing has it."""
    return quantised(x, LEVELS)


def compressed(x: Tensor) -> Tensor:
    """Return images as they come back from JPEG at quality 75, (B, C, H, W) of one or three channels; raises BadInput."""
    if x.shape[1] not in (1, 3):
        raise BadInput(f"JPEG knows images of one or three channels, not {x.shape[1]}.")
    levels = (x * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1).numpy()
    found = []
    for image in levels:
        stream = io.BytesIO()
        Image.fromarray(image[..., 0] if x.shape[1] == 1 else image).save(stream, "JPEG", quality=QUALITY)
        found.append(np.asarray(Image.open(stream)).reshape(image.shape))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(x) / 255


class RandomResizing(nn.Module):
    """Shrink a batch to a random size of at least seven eighths and put it at a random place on black, of the former size.

    Xie et al. (ICLR 2018) enlarge ImageNet's images from 299 to at most 331 pixels instead, a network's usual size at home.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W), drawn anew in each call by PyTorch's default generator; differentiable."""
        height, width = x.shape[2:]
        share = _SMALLEST + (1 - _SMALLEST) * float(torch.rand(()))
        size = (round(height * share), round(width * share))
        small = F.interpolate(x, size, mode="bilinear", align_corners=False)
        top, left = (int(torch.randint(side - part + 1, ())) for side, part in zip((height, width), size, strict=True))
        return F.pad(small, (left, width - size[1] - left, top, height - size[0] - top))


class _Opaque(nn.Module):
    """A transformation with its own gradient, which is zero."""

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.transform(x)
        return value + 0 * x


def _transformed(transform: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], Defended]:
    def around(network: nn.Module) -> Defended:
        naive = nn.Sequential(_Opaque(transform), network)
        return Defended(naive, naive, nn.Sequential(BPDA(transform), network))

    return around


def _resized(network: nn.Module) -> Defended:
    once = nn.Sequential(RandomResizing(), network)
    mean = EOT(once, DRAWS)
    return Defended(mean, once, mean)


def _coded(network: nn.Module) -> Defended:
    hiding = copy.deepcopy(network)
    for module in hiding.modules():
        if isinstance(module, Thermometer):
            module.hides_gradients = True
    return Defended(hiding, hiding, network)


DEFENCES = (
    Defence("none", "", "its own gradient", lambda network: Defended(network, network, network)),
    Defence(f"rounding to {LEVELS} levels", "Guo et al. (2018)", "BPDA, the identity", _transformed(rounded)),
    Defence(f"JPEG, quality {QUALITY}", "Guo et al. (2018)", "BPDA, the identity", _transformed(compressed)),
    Defence("random resizing", "Xie et al. (2018)", f"EOT over {DRAWS} draws", _resized),
    Defence(
        "thermometer code, 16 levels",
        "Buckman et al. (2018)",
        "BPDA, the smooth code",
        _coded,
        ("--model.name=resnet18-thermometer",),
    ),
)
