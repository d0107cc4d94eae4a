"""What is examined, and how a check asks the network."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import attackable
from sparring.data import Images, Labelled, batches, images_of
from sparring.data.splits import image_digests
from sparring.errors import BadInput
from sparring.evaluation.network import untouched
from sparring.randomness import repeatable, seed_from
from sparring.threat import Threat, check_threat

FEW = 16  # images for what one image would show
_AT_ONCE = 64  # images in a forward pass


@dataclass(frozen=True, eq=False)
class Case:
    """A network, some images and a threat; the network is in evaluation mode, its parameters are frozen."""

    model: nn.Module
    pixels: Tensor  # (N, C, H, W), as they were given
    x: Tensor  # (N, C, H, W) floats in [0, 1] on the model's device, in random order
    y: Tensor  # (N,), on the model's device
    threat: Threat
    classes: int | None  # of the data, where known
    class_names: tuple[str, ...]  # of the data, by label; empty where they are not known
    seen: tuple[int, int]  # how many of how many images the model was trained on, as far as it says
    in_training: tuple[nn.Module, ...]  # the modules that were in training mode when the doctor came

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, C, H, W), without a graph."""
        with torch.no_grad():
            return torch.cat([self.model(part.clone()) for part in torch.split(x, _AT_ONCE)])  # it may write into them

    @property
    def few(self) -> Tensor:
        """The first images, an even number of at least two."""
        return self.x[: min(FEW, len(self.x) // 2 * 2)]


@contextmanager
def examined(
    model: nn.Module,
    data: Labelled,
    threat: Threat,
    classes: int | Sequence[str] | None,
    device: torch.device | str,
    seed: int,
    count: int,
) -> Iterator[Case]:
    """Yield the case of at most `count` of the images, drawn at random; put the model back as it was afterwards.

    Raises BadInput for images that there are not, images of a single class, fewer than two images to look at, and arguments
    of other types.
    """
    images = images_of(data)
    check_threat(threat)
    if len(images) == 0:
        raise BadInput("There are no images to examine the model with: give some of each class.")
    if bool((images.labels == images.labels[0]).all()):
        raise BadInput(
            f"All images are of class {int(images.labels[0])}, so accuracy means nothing: give images of two or more."
        )
    if count < 2:
        raise BadInput(f"The doctor needs at least 2 images to look at, not {count}.")
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed_from(seed)))[:count]
    some, device = images.subset(rows), torch.device(device)
    in_training = tuple(module for module in model.modules() if module.training)
    with untouched(model), _uncompiled(), repeatable(seed, device), attackable(model, "eval"):
        batch = next(batches(some, len(some), device))
        names, known = ((), classes) if isinstance(classes, int | None) else (tuple(classes), len(classes))
        yield Case(model, some.pixels, batch.x, batch.y, threat, known, names, _seen(model, images), in_training)


def said_by(model: nn.Module, name: str) -> Any:
    """Return what `sparring.load` noted on a network under this name, which may be wrapped; None where there is nothing."""
    found = (getattr(module, name, None) for module in model.modules())
    return next((value for value in found if isinstance(value, tuple | Tensor) and len(value)), None)


def _seen(model: nn.Module, images: Images) -> tuple[int, int]:
    digests = said_by(model, "seen")
    if digests is None:
        return 0, len(images)
    return int(torch.isin(image_digests(images.pixels), digests).sum()), len(images)


def _uncompiled() -> AbstractContextManager[Any]:
    """Let a compiled network run uncompiled meanwhile: the doctor's batches would use up its recompilations."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the import would take seconds
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
