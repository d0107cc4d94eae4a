"""A whole split on the device: batches are gathered there, in an order that is a function of (seed, epoch, rank)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from typing_extensions import override

from sparring.choices import check_kind
from sparring.data.augment import Augment, View
from sparring.data.batch import Batch
from sparring.data.images import Images, Labelled, images_of
from sparring.data.training_data import Draw, TrainingData
from sparring.errors import BadInput
from sparring.randomness import check_seed, seed_from

_ORDER, _VIEWS = 0, 1  # what a seed is for


class Resident(TrainingData):
    """A training split that lives on the device as padded uint8 canvases.

    Epoch e of a given seed consists of the same batches wherever it is entered, on every device: a run that is
    resumed in the middle of an epoch continues as if it had not been interrupted. Every rank gets equally many
    samples; where they do not divide evenly, the first ones of the epoch's order are seen twice.
    """

    def __init__(
        self,
        images: Labelled,
        augment: Augment,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        classes: int | None = None,
    ) -> None:
        """Move the split to `device`; `batch_size` counts the samples of one rank, `classes` None is the largest label + 1.

        Raises BadInput where there is no whole batch, the padding does not fit the images, pixels are none of the 256
        levels, labels are none of the classes, or two images have one index.
        """
        images = images_of(images)
        check_seed(seed)
        _check_index(images.index)
        self._share = math.ceil(len(images) / world_size)  # samples per rank and epoch
        _check_batch_size(batch_size, self._share if drop_last else None)
        self._augment, self._seed, self.batch_size = augment, seed, batch_size
        self.classes = int(images.labels.max()) + 1 if classes is None else classes
        _check_labels(images.labels, self.classes)
        self._rank, self._world_size = rank, world_size
        # Not their number: some images of a larger set keep their indices.
        self.samples = int(images.index.max()) + 1 if len(images) else 0
        channels, *size = images.pixels.shape[1:]
        self._size = (size[0], size[1])
        self._pixels = augment.canvas(images.levels().to(device))
        self.shape, self.canvas = (channels, *self._size), (channels, self._pixels.shape[2], self._pixels.shape[3])
        self._labels = images.labels.to(device)
        self._index = images.index.to(device)
        self.steps_per_epoch = self._share // batch_size if drop_last else math.ceil(self._share / batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from step `start` on."""
        return map(self.show, self.draws(epoch, start))

    @override
    def draws(self, epoch: int, start: int = 0) -> Iterator[Draw]:
        views = self._views(epoch)
        drawn = torch.stack([self._order(epoch), views.top, views.left, views.flip.long()]).to(self._pixels.device)
        for step in range(start, self.steps_per_epoch):
            yield drawn[:, step * self.batch_size : (step + 1) * self.batch_size]

    @override
    def show(self, draw: Draw) -> Batch:
        """Gather, crop and flip on the device, in a few operations whatever the batch's size."""
        rows, top, left, flip = draw.unbind(0)
        view = View(top, left, flip.bool(), self._augment.pad, self._size)
        return Batch(
            x=_unit(view.show(self._pixels.index_select(0, rows))),
            y=self._labels.index_select(0, rows),
            index=self._index.index_select(0, rows),
            view=view,
        )

    def _order(self, epoch: int) -> Int64[Tensor, "share"]:
        """Return this rank's rows in this epoch, drawn on the CPU so that every device sees the same order."""
        generator = torch.Generator().manual_seed(seed_from(self._seed, epoch, _ORDER))
        shuffled = torch.randperm(len(self._labels), generator=generator)
        positions = torch.arange(self._rank, self._share * self._world_size, self._world_size)
        return shuffled[positions % len(shuffled)]

    def _views(self, epoch: int) -> View:
        """Return the views of this rank's samples in this epoch, all drawn at once: a step takes its slice of them."""
        generator = torch.Generator().manual_seed(seed_from(self._seed, epoch, _VIEWS, self._rank))
        return self._augment.draw(self._share, self._size, generator)


def batches(images: Images, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
    """Yield a split in its own order on `device`, not augmented, for evaluation. Raises BadInput for an empty batch."""
    _check_batch_size(batch_size)
    size = (images.pixels.shape[2], images.pixels.shape[3])
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        pixels = images.pixels[part].to(device)
        yield Batch(
            x=_unit(pixels),
            y=images.labels[part].to(device),
            index=images.index[part].to(device),
            view=Augment().identity(len(pixels), size, device),
        )


def _unit(pixels: UInt8[Tensor, "B C H W"] | Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B C H W"]:
    """Return 8-bit pixels as float32 in [0, 1], the same on every device, and fractions as they are."""
    if pixels.is_floating_point():
        return pixels.clone()  # a network may write into it
    # A tensor, as CUDA would multiply by the rounded reciprocal of a Python number.
    white = torch.full((), 255.0, device=pixels.device)
    return pixels.to(torch.float32).div_(white)


def _check_batch_size(batch_size: int, available: int | None = None) -> None:
    check_kind("batch_size", batch_size, int)
    if batch_size < 1:
        raise BadInput(f"The batch size is {batch_size}: give at least 1.")
    if available is not None and batch_size > available:
        raise BadInput(
            f"The batch size is {batch_size}, but there are only {available} training images (of each rank), and "
            "incomplete batches are dropped: lower it."
        )


def _check_index(index: Tensor) -> None:
    """Raise BadInput for indices by which methods cannot remember each image by itself."""
    for key, count in Counter(index.tolist()).most_common(1):
        if count > 1:
            raise BadInput(
                f"Training remembers images by their index, and {count} of them have the index {key}: leave indices out, as "
                "in Images(pixels, labels)."
            )
        if (least := int(index.min())) < 0:
            raise BadInput(f"Training remembers images by their index, and one is {least}: count from 0.")


def _check_labels(labels: Tensor, classes: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise BadInput(
            f"Labels go from {int(labels.min())} to {int(labels.max())}, but there are the classes 0 to {classes - 1}: "
            "number them from 0."
        )
