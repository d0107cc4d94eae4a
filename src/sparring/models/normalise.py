"""Normalisation as the first layer of a network, so that attacks and users only ever see pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from sparring.choices import check_kind
from sparring.errors import BadInput
from sparring.models.quantise import check_levels, quantised


class Normalised(nn.Module):
    """A network behind `(x - mean) / std`; the statistics are buffers and travel with the weights.

    With `levels` the pixels are first rounded to so many values; see `quantised`. That is not among the weights.

    Args:
        network: takes normalised images (B, C, H, W), returns logits (B, K).
        channels: C.
        mean: a value a channel, in pixel fractions [0, 1]; None is 0.
        std: a value a channel, in pixel fractions (0, 1]; None is 1.
        levels: 2 to 256 values that a pixel may take; None leaves the pixels as they are.

    Raises:
        BadInput: a wrong number of values, values that are not pixel fractions, or levels that cannot be.
    """

    mean: Tensor  # (1, C, 1, 1)
    std: Tensor  # (1, C, 1, 1)
    class_names: tuple[str, ...] = ()  # in the order of the logits, where `load` found them beside the weights
    image_size: tuple[int, int] | None = None  # (H, W) that it was trained on, where `load` found it there
    seen: Tensor | None = None  # digests of the images it was trained on, see `Splits.seen`, where `load` found them

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        mean = [0.0] * channels if mean is None else mean
        std = [1.0] * channels if std is None else std
        _check("mean", mean, channels)
        _check("std", std, channels)
        if 0 in std:
            raise BadInput(f"std {tuple(std)} contains a zero: give a positive value for every channel.")
        if levels is not None:
            check_levels(levels)
        self.network = network
        self.levels = levels
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, channels, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, channels, 1, 1))

    def forward(self, x: Num[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return logits (B, K) of images (B, C, H, W) in [0, 1].

        Raises BadInput for integer images and for another number of channels.
        """
        if not x.is_floating_point():  # the division below would promote bytes silently, 255 times too bright
            raise BadInput(f"The model got {x.dtype} images: give floats in [0, 1], such as bytes / 255.")
        if x.shape[-3] != self.mean.shape[-3]:  # a single channel would be broadcast to all of them
            raise BadInput(f"The model takes images of {self.mean.shape[-3]} channel(s), not of {x.shape[-3]}.")
        if self.levels is not None:
            x = quantised(x, self.levels)
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def _check(statistic: str, values: Sequence[float], channels: int) -> None:
    check_kind(statistic, values, tuple[float, ...])
    if len(values) != channels:
        raise BadInput(f"{statistic} {tuple(values)} has length {len(values)}, but images have {channels} channel(s).")
    if not all(0 <= value <= 1 for value in values):  # also refuses nan
        raise BadInput(f"{statistic} {tuple(values)} is not in pixel fractions [0, 1]: divide 8-bit values by 255.")
