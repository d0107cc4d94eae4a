"""Whether a network is as accurate as its authors state: what tells apart networks whose weights look the same."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

import torch
from torch import nn

from sparring.data import Images, batches
from sparring.errors import BadInput

_BATCH = 256  # images
_ROUNDED = 0.001  # stated accuracies have a decimal or two of a percent, and other machines round otherwise


def check_accuracy(
    model: nn.Module,
    accuracy: float | None,
    images: Images | None,
    what: str,
    variants: Iterable[tuple[str, nn.Module]],
) -> None:
    """Raise BadInput if the model's accuracy on clean images is not the stated one, to three standard errors.

    Args:
        model: in evaluation mode, on the CPU.
        accuracy: as stated, a fraction.
        images: to measure it on.
        what: the model, for messages.
        variants: by name, models that it may be instead; asked only where it is not as stated.
    """
    if accuracy is None or images is None or len(images) == 0:
        raise BadInput("A stated accuracy needs images to compare it on, and images need one: give adopt both.")
    if not 0 <= accuracy <= 1:
        raise BadInput(f"The accuracy {accuracy} is no fraction in [0, 1]: write 0.842 for 84.2%.")
    found = _accuracy(model, images)
    allowed = _ROUNDED + 3 * sqrt(accuracy * (1 - accuracy) / len(images))
    if abs(found - accuracy) <= allowed:
        return
    measured = {name: _accuracy(variant, images) for name, variant in variants}
    fitting = [name for name, other in measured.items() if abs(other - accuracy) <= allowed]
    seen = "".join(f", {name!r} {other:.1%}" for name, other in measured.items())
    advice = " or ".join(f"describe it as {name!r}" for name in fitting) or (
        "look how its code normalises pixels (mean and std of adopt), and for other differences of its network"
    )
    raise BadInput(f"{what} gets {found:.1%} of {len(images)} images right{seen}; stated is {accuracy:.1%}: {advice}.")


@torch.no_grad()
def _accuracy(model: nn.Module, images: Images) -> float:
    right = sum(int((model(batch.x).argmax(1) == batch.y).sum()) for batch in batches(images, _BATCH, "cpu"))
    return right / len(images)
