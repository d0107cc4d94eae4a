"""Adversarial examples of a network, as pictures for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor, nn

from sparring.data import Images
from sparring.results.attacked import attacked, first_right
from sparring.threat import Threat

ATTACK = "pgd-20"


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
    """Return the first `count` test images that the network classifies rightly, attacked by PGD-20; fewer if so few are.

    Raises BadInput where none is.
    """
    found = attacked(network, *first_right([network], images, count, device), threat, ATTACK)
    shown = found.shown
    return [
        Example(
            classes[int(found.y[row])],
            _picture(found.x[row]),
            _picture(shown[row]),
            _picture(found.adversarial[row]),
            classes[int(before.argmax())],
            float(before.max()),
            classes[int(after.argmax())],
            float(after.max()),
        )
        for row, (before, after) in enumerate(zip(found.before, found.after, strict=True))
    ]


def _picture(pixels: Tensor) -> str:
    """Return a data URL of an image (C, H, W) in [0, 1]."""
    values = (pixels * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    stream = io.BytesIO()
    Image.fromarray(values if values.shape[2] == 3 else values[:, :, 0]).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
