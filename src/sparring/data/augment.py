"""Random crop and flip that can be undone: a `View` remembers where on the padded image (the canvas) a crop was seen.

Memories of perturbations live on the canvas, so that they keep their place in the picture from epoch to epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from sparring.choices import check_choices
from sparring.deprecation import renamed_method
from sparring.errors import BadInput


@dataclass(frozen=True, eq=False)
class View:
    """Where each crop of a batch lies on its canvas (H + 2 pad, W + 2 pad), and whether it is seen in a mirror.

    `show` and `write_back` are inverse to each other: `show(write_back(canvas, crop))` is `crop`, and
    `write_back(canvas, show(canvas))` is `canvas`, bit for bit, for every dtype.
    """

    top: Int64[Tensor, "B"]  # pixels, 0 .. 2 pad
    left: Int64[Tensor, "B"]  # pixels, 0 .. 2 pad
    flip: Bool[Tensor, "B"]  # mirrored left to right
    pad: int
    size: tuple[int, int]  # (H, W) of the crop

    def show(self, canvas: Shaped[Tensor, "B C canvasH canvasW"]) -> Shaped[Tensor, "B C H W"]:
        """Return the crops of the canvases. Raises ValueError where the canvas does not have the view's size."""
        self._fits(canvas)
        crop = canvas.flatten(2).gather(2, self._pixels.expand(-1, canvas.shape[1], -1))  # (B, C, H * W)
        return crop.view(*crop.shape[:2], *self.size)

    def write_back(
        self, canvas: Shaped[Tensor, "B C canvasH canvasW"], crop: Shaped[Tensor, "B C H W"]
    ) -> Shaped[Tensor, "B C canvasH canvasW"]:
        """Return a copy of the canvases with the crops written back where they were seen; the other pixels stay.

        `crop` has the dtype of `canvas`. Raises ValueError where the canvas does not have the view's size.
        """
        self._fits(canvas)
        index = self._pixels.expand(-1, canvas.shape[1], -1)
        return canvas.flatten(2).scatter(2, index, crop.flatten(2)).view(canvas.shape)

    paint = renamed_method("paint", write_back)

    def to(self, device: torch.device | str) -> View:
        """Return the same view with its tensors on `device`."""
        return View(self.top.to(device), self.left.to(device), self.flip.to(device), self.pad, self.size)

    def __getitem__(self, part: slice) -> View:
        return View(self.top[part], self.left[part], self.flip[part], self.pad, self.size)

    @cached_property
    def _pixels(self) -> Tensor:
        """The flat position on the canvas of every pixel of the crops, (B, 1, H * W); a step asks up to five times."""
        height, width = self.size
        down = self.top[:, None] + torch.arange(height, device=self.top.device)  # (B, H)
        across = torch.arange(width, device=self.top.device)
        across = self.left[:, None] + torch.where(self.flip[:, None], width - 1 - across, across)  # (B, W)
        return ((down * (width + 2 * self.pad))[:, :, None] + across[:, None, :]).flatten(1)[:, None]

    def _fits(self, canvas: Tensor) -> None:
        expected = (self.size[0] + 2 * self.pad, self.size[1] + 2 * self.pad)
        if tuple(canvas.shape[2:]) != expected:
            raise ValueError(f"A canvas of {tuple(canvas.shape[2:])} pixels does not fit a view of {expected}.")


@dataclass(frozen=True)
class Augment:
    """Random crop out of the image padded by `pad` pixels on each side, then a mirror image half of the time."""

    pad: int = 0
    flip: bool = False
    fill: Literal["zero", "reflect"] = "zero"

    def __post_init__(self) -> None:
        check_choices(self)
        if self.pad < 0:
            raise BadInput(f"augment.pad is {self.pad}: give a number of pixels, 0 for no random crop.")

    def draw(
        self,
        count: int,
        size: tuple[int, int],
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> View:
        """Return random views of `count` images of `size` (H, W); `generator` lives on `device`, None is its default one.

        Raises BadInput where the padding is so wide that a crop may miss the image.
        """
        self._fits(size)
        top, left = torch.randint(0, 2 * self.pad + 1, (2, count), generator=generator, device=device)
        if self.flip:
            flip = torch.randint(0, 2, (count,), generator=generator, device=device).bool()
        else:
            flip = torch.zeros(count, dtype=torch.bool, device=device)
        return View(top, left, flip, self.pad, size)

    def identity(self, count: int, size: tuple[int, int], device: torch.device | str = "cpu") -> View:
        """Return the centred, unflipped views of `count` canvases: they show the original images of `size` (H, W)."""
        centre = torch.full((count,), self.pad, dtype=torch.int64, device=device)
        return View(centre, centre, torch.zeros_like(centre, dtype=torch.bool), self.pad, size)

    def canvas(self, images: Shaped[Tensor, "B C H W"]) -> Shaped[Tensor, "B C canvasH canvasW"]:
        """Return the images padded by `pad` pixels on each side with `fill`, in their own dtype.

        Raises BadInput where the padding is so wide that a crop may miss the image.
        """
        height, width = images.shape[2:]
        self._fits((height, width))
        if self.fill == "zero":
            return torch.nn.functional.pad(images, (self.pad,) * 4)
        # By index: torch's own reflection knows no integers.
        down, across = (_reflected(length, self.pad, images.device) for length in (height, width))
        return images.index_select(2, down).index_select(3, across)

    def _fits(self, size: tuple[int, int]) -> None:
        if self.pad >= min(size):
            raise BadInput(
                f"augment.pad is {self.pad}, so that a crop of {size[0]} x {size[1]} pixels might hold nothing of the "
                f"image: give {min(size) - 1} at most; an eighth of the side is usual."
            )


def _reflected(length: int, pad: int, device: torch.device) -> Tensor:
    """Return positions -pad .. length + pad - 1 mirrored into 0 .. length - 1 about the edge pixels, (length + 2 pad,)."""
    position = torch.arange(-pad, length + pad, device=device).abs()
    return (length - 1) - (length - 1 - position).abs()
