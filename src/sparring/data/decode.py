"""Encoded images (PNG, JPEG, ...) to one uint8 tensor, with PIL; knows nothing of data sets and labels."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from sparring.errors import BadInput, some

_CHUNK = 1024  # images that are held encoded at a time
_LARGE = 128 * 128  # pixels; below, Python's lock makes several threads slower than one


class Encoded(NamedTuple):
    """An image as it is stored."""

    name: str  # for messages
    content: bytes | Path | None  # None where there is none


Reader = Callable[[list[int]], list[Encoded]]  # row numbers of a table -> the encoded images in these rows


def decode(
    read: Reader, rows: Int64[Tensor, "N"], channels: Literal[1, 3], size: int | None = None
) -> UInt8[Tensor, "N C H W"]:
    """Return the images in `rows` (at least one), as gray (1 channel) or RGB (3), whatever mode each is stored in.

    `size`: resize the shorter side to so many pixels and cut out the central square. Images are turned upright as their EXIF
    orientation says.
    Raises BadInput for images that cannot be decoded, after all have been tried, or, without `size`, for images of different
    sizes.
    """
    wanted = rows.tolist()
    first, known = _first_shape(read, wanted, channels, size)
    pixels = np.empty((len(wanted), *first), dtype=np.uint8)  # (N, C, H, W)
    broken: dict[int, tuple[str, str]] = {}

    def place(position: int, image: Encoded) -> None:
        try:
            decoded = _pixels(image, channels, size)
        except Undecodable as error:
            (broken[position],) = error.images
            return
        if decoded.shape != first:
            raise BadInput(
                f"{known} has {first[1]} x {first[2]} pixels, and {image.name} {decoded.shape[1]} x {decoded.shape[2]}: "
                "set data.size to resize them all."
            )
        pixels[position] = decoded

    large = first[1] * first[2] >= _LARGE or size is not None
    with ThreadPoolExecutor(os.cpu_count() if large else 1) as pool:
        each = pool.map if large else map
        for start in range(0, len(wanted), _CHUNK):
            chunk = read(wanted[start : start + _CHUNK])
            for _ in each(place, range(start, start + len(chunk)), chunk):
                pass
    if broken:
        raise Undecodable([broken[position] for position in sorted(broken)])
    return torch.from_numpy(pixels)


class Undecodable(BadInput):
    """Images that cannot be decoded: the name of each, and why. The first few are named in the message."""

    def __init__(self, images: Sequence[tuple[str, str]]) -> None:
        if len(images) == 1:
            ((name, reason),) = images
            super().__init__(f"{name} cannot be decoded ({reason}): replace it, or leave it out.")
        else:
            names = some([name for name, _ in images])
            super().__init__(f"{len(images)} images cannot be decoded ({names}): replace them, or leave them out.")
        self.images = tuple(images)


def _first_shape(
    read: Reader, rows: list[int], channels: Literal[1, 3], size: int | None
) -> tuple[tuple[int, int, int], str]:
    """Return the shape (C, H, W) of the first image that can be decoded, and its name; raises BadInput where none can."""
    broken: list[tuple[str, str]] = []
    for row in rows:
        try:
            image = read([row])[0]
            return _pixels(image, channels, size).shape, image.name
        except Undecodable as error:
            broken += error.images
    raise Undecodable(broken)


def _pixels(encoded: Encoded, channels: Literal[1, 3], size: int | None) -> npt.NDArray[np.uint8]:
    """Return one image, (C, H, W)."""
    content = encoded.content
    if content is None:
        raise Undecodable([(encoded.name, "nothing is stored")])
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as stored:
            raw = " ".join(str(tile[3]) for tile in stored.tile)  # gone once it is loaded
            stored.load()
            # Of 16-bit colours PIL keeps the upper halves without a word, in a mode of 8 bits.
            eight_bits = stored.mode[0] not in "IF" and ";16" not in raw
            upright = ImageOps.exif_transpose(stored)  # as a camera that was turned says
            image = upright.convert("RGBA") if "transparency" in stored.info else upright
            image = image.convert("L" if channels == 1 else "RGB")
            if size is not None:
                image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    # PIL's decoders raise all of these for damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Undecodable([(encoded.name, str(error))]) from error
    if not eight_bits:
        raise BadInput(f"{encoded.name} has more than 8 bits per channel: convert the images to 8 bits.")
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
