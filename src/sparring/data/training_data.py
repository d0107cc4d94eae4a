"""What a training step needs of its data, wherever the images are: whole on the device, streamed, or mixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias

from jaxtyping import Int64
from torch import Tensor

from sparring.data.batch import Batch

Draw: TypeAlias = Int64[Tensor, "4 B"]  # of each sample of a batch its row, and of its view top, left and flip


class TrainingData(Protocol):
    """A training set as a sequence of batches, epoch by epoch; the same ones wherever an epoch is entered.

    Rank and world size enter here: a rank sees its own batches, and knows nothing of the others'.
    """

    shape: tuple[int, int, int]  # (C, H, W) of a training image
    canvas: tuple[int, int, int]  # (C, H, W) of what a `View` looks into: the padded image
    classes: int
    samples: int | None  # images with an index of their own, below this number; None: a stream without stable indices
    batch_size: int  # images a step, of this rank
    steps_per_epoch: int

    def draws(self, epoch: int, start: int = 0) -> Iterator[Draw]:
        """Yield what `show` needs for each batch of an epoch from the `start`-th on: one small tensor on the device."""

    def show(self, draw: Draw) -> Batch:
        """Make the batch on the device, in operations that can be recorded and replayed with another draw."""
