"""What all attacks have in common: the same call, and one or several searches on the images that are still correct."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks.capacity import Capacity
from sparring.attacks.modes import attackable, check_model
from sparring.attacks.pool import Pool, SearchInputs
from sparring.attacks.search import CountedModel, Search
from sparring.choices import check_choices, check_kind
from sparring.errors import BadInput, shown
from sparring.randomness import Generator, SampleStreams
from sparring.threat import ImageBatch, Threat, check_threat

Labels = Int[Tensor, " B"]


class Attack(ABC):
    """Finds, for each image, a perturbation inside the threat that makes the network fail."""

    def __post_init__(self) -> None:
        """Raise BadInput where a setting is none of its choices; a dataclass with checks of its own calls this, too."""
        check_choices(self)

    @abstractmethod
    def searches(self, classes: int, threat: Threat) -> Mapping[str, Search]:
        """Return the searches by name, in order; each runs on the images that the ones before left correct.

        Raises BadInput where the attack cannot be run on so few classes, or in the threat's norm.
        """

    @abstractmethod
    def describe(self, threat: Threat) -> dict[str, str | int]:
        """Return what a record must state to repeat the attack: its step size, steps, start, restarts."""

    @torch.inference_mode(False)  # which lets autograd record under no_grad, too
    def __call__(
        self, model: nn.Module, x: ImageBatch, y: Labels, threat: Threat, *, generator: Generator = None
    ) -> ImageBatch:
        """Return adversarial images (B, C, H, W) in [0, 1] for images x in [0, 1] and labels y (B,).

        The model must return logits (B, K). Its modes and gradient flags are left as they were. Images that it already
        gets wrong are returned as they are; where nothing fools it, the last image that was tried. Works under the caller's
        `no_grad` and `inference_mode`, too. Raises BadInput for images outside [0, 1], for labels that are none of the
        model's classes, for arguments of other types, and for a model that writes into the images or gives no gradient where
        one is needed.
        """
        check_model(model)
        check_threat(threat)
        check_kind("generator", generator, Generator)
        _check_pixels(x)
        _check_labels(y, len(x))
        x, y = x.detach().clone(), y.clone()  # tensors made under inference_mode have no gradients
        images = x.clone().cpu()
        with attackable(model, "eval"):
            counted = CountedModel(model)
            clean = counted.clean_logits(x)
            _check_classes(y, clean.shape[1])
            inputs = SearchInputs(
                lambda rows: (x[rows.to(x.device)], y[rows.to(y.device)]), clean.cpu(), _streams(x, generator)
            )
            right = (clean.argmax(1) == y).cpu()
            for search in self.searches(clean.shape[1], threat).values():
                rows = right.nonzero()[:, 0]
                pool = Pool(search, inputs, threat, counted, counted, rows, Capacity(max(len(x), 1)), images=images)
                for _ in pool.run():
                    pass
                right &= ~pool.fooled
        return images.to(x.device)


class SearchAttack(Search, Attack):
    """An attack that is a single search."""

    @override
    def searches(self, classes: int, threat: Threat) -> Mapping[str, Search]:
        return {"": self}


def _check_pixels(x: object) -> None:
    _check_dense("images", x)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 4:
        kind = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else shown(x)
        raise BadInput(f"The images are {kind}: give a tensor of floats in [0, 1], (images, channels, height, width).")
    if len(x) == 0:
        return
    least, most = float(x.min()), float(x.max())
    if not (least >= 0 and most <= 1):  # also refuses nan
        raise BadInput(f"Images must lie in [0, 1], but these go from {least:g} to {most:g}: divide bytes by 255.")


def _check_dense(name: str, tensor: object) -> None:
    if isinstance(tensor, Tensor) and tensor.layout != torch.strided:
        raise BadInput(f"The {name} are a sparse tensor: give a dense one, by .to_dense().")


def _check_labels(y: object, count: int) -> None:
    _check_dense("labels", y)
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != (count,):
        kind = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else shown(y)
        raise BadInput(f"The labels of {count} images are {kind}: give a tensor of int64, of shape ({count},).")


def _check_classes(y: Tensor, classes: int) -> None:
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise BadInput(
            f"Labels go from {int(y.min())} to {int(y.max())}, but the model knows the classes 0 to {classes - 1}."
        )


def _streams(x: Tensor, generator: Generator) -> SampleStreams:
    """Return the images' own streams, seeded from a sequential generator where one is given."""
    if isinstance(generator, SampleStreams):
        return SampleStreams(generator.seed, generator.index.cpu(), generator.stage)
    device = generator.device if generator is not None else "cpu"
    seed = torch.randint(2**62, (), generator=generator, device=device)
    return SampleStreams(int(seed), torch.arange(len(x)))
