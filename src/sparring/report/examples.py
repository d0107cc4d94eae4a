"""Adversarial examples of a network, as pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from sparring.attacks import attackable, named
from sparring.data import Images, batches
from sparring.randomness import repeatable
from sparring.threat import Threat

ATTACK = "pgd-20"
_SEARCHED = 256  # test images, of which the first ones that are classified rightly are shown
_SEED = 0


@dataclass(frozen=True)
class Example:
    """An image, what was added to it, and what the network says of both; the pictures as data URLs of PNGs."""

    label: str
    clean: str
    perturbation: str
    adversarial: str
    said: str
    confidence: float
    said_then: str
    confidence_then: float

    @property
    def fooled(self) -> bool:
        """Whether the network's answer is another one."""
        return self.said != self.said_then


def examples(
    network: nn.Module, images: Images, threat: Threat, classes: Sequence[str], count: int, device: str
) -> list[Example]:
    """Return the first `count` test images that the network classifies rightly, attacked by PGD-20; fewer if so few are."""
    (batch,) = batches(images.subset(torch.arange(min(_SEARCHED, len(images)))), _SEARCHED, torch.device(device))
    x, y = batch.x, batch.y
    with torch.no_grad(), attackable(network, "eval"):
        right = (network(x).argmax(1) == y).nonzero().flatten()[:count]
    if not len(right):
        return []
    x, y = x[right], y[right]
    with repeatable(_SEED, x.device):
        adversarial = named(ATTACK)(network, x, y, threat)
    with torch.no_grad(), attackable(network, "eval"):
        before, after = (network(images).float().softmax(1).max(1) for images in (x, adversarial))
    delta = adversarial - x
    largest = delta.abs().flatten(1).amax(1).clamp_min(torch.finfo(delta.dtype).tiny)[:, None, None, None]
    shown = (delta / largest / 2 + 0.5).clamp(0, 1)
    return [
        Example(
            classes[int(y[row])],
            _picture(x[row]),
            _picture(shown[row]),
            _picture(adversarial[row]),
            classes[int(before.indices[row])],
            float(before.values[row]),
            classes[int(after.indices[row])],
            float(after.values[row]),
        )
        for row in range(len(y))
    ]


def _picture(pixels: Tensor) -> str:
    """Return a data URL of an image (C, H, W) in [0, 1]."""
    values = (pixels * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    stream = io.BytesIO()
    Image.fromarray(values if values.shape[2] == 3 else values[:, :, 0]).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
