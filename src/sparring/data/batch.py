"""What the data layer hands over: `Images`, one split on the host, and `Batch`, what a training step sees of it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from sparring.data.augment import View


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set, decoded, in host memory."""

    pixels: UInt8[Tensor, "N C H W"]
    labels: Int64[Tensor, "N"]
    index: Int64[Tensor, "N"]  # 0 .. N-1: the key of whatever is remembered about a sample

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: Int64[Tensor, "M"]) -> Images:
        """Return some of the images; each keeps its index."""
        return Images(self.pixels[rows], self.labels[rows], self.index[rows])


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples as the network sees them, with what is needed to find them again in later epochs."""

    x: Float[Tensor, "B C H W"]  # in [0, 1]
    y: Int64[Tensor, "B"]
    index: Int64[Tensor, "B"]  # which samples of their split these are
    view: View  # which part of each sample's canvas x shows
