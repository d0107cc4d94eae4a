"""What a training step sees of a split: `Batch`."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from sparring.data.augment import View


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples as the network sees them, with what is needed to find them again in later epochs."""

    x: Float[Tensor, "B C H W"]  # in [0, 1]
    y: Int64[Tensor, "B"]
    index: Int64[Tensor, "B"]  # which samples of their split these are
    view: View  # which part of each sample's canvas x shows
