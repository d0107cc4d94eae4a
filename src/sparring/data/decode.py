"""Encoded images (PNG, JPEG, ...) to one uint8 tensor, with PIL; knows nothing of data sets and labels."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from sparring.errors import BadInput

_CHUNK = 1024  # images that are held encoded at a time
_LARGE = 128 * 128  # pixels; below, Python's lock makes several threads slower than one


class Encoded(NamedTuple):
    """An image as it is stored."""

    name: str  # for messages
    content: bytes | Path


Reader = Callable[[list[int]], list[Encoded]]  # row numbers of a table -> the encoded images in these rows


def decode(
    read: Reader, rows: Int64[Tensor, "N"], channels: Literal[1, 3], size: int | None = None
) -> UInt8[Tensor, "N C H W"]:
    """Return the images in `rows` (at least one), as gray (1 channel) or RGB (3), whatever mode each is stored in.

    `size`: resize the shorter side to so many pixels and cut out the central square.
    Raises BadInput for an image that cannot be decoded, or, without `size`, for images of different sizes.
    """
    wanted = rows.tolist()
    first = _pixels(read(wanted[:1])[0], channels, size)
    pixels = np.empty((len(wanted), *first.shape), dtype=np.uint8)  # (N, C, H, W)

    def place(position: int, image: Encoded) -> None:
        decoded = _pixels(image, channels, size)
        if decoded.shape != first.shape:
            raise BadInput(
                f"{image.name} has {decoded.shape[1]} x {decoded.shape[2]} pixels, others have "
                f"{first.shape[1]} x {first.shape[2]}: set data.size to resize them all."
            )
        pixels[position] = decoded

    large = first.shape[1] * first.shape[2] >= _LARGE or size is not None
    with ThreadPoolExecutor(os.cpu_count() if large else 1) as pool:
        each = pool.map if large else map
        for start in range(0, len(wanted), _CHUNK):
            chunk = read(wanted[start : start + _CHUNK])
            for _ in each(place, range(start, start + len(chunk)), chunk):
                pass
    return torch.from_numpy(pixels)


def _pixels(encoded: Encoded, channels: Literal[1, 3], size: int | None) -> npt.NDArray[np.uint8]:
    """Return one image, (C, H, W)."""
    content = encoded.content
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as stored:
            stored.load()
            eight_bits = stored.mode[0] not in "IF"
            image = stored.convert("RGBA") if "transparency" in stored.info else stored
            image = image.convert("L" if channels == 1 else "RGB")
            if size is not None:
                image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    # PIL's decoders raise all of these for damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{encoded.name} cannot be decoded ({error}): replace it, or leave it out.") from error
    if not eight_bits:
        raise BadInput(f"{encoded.name} has more than 8 bits per channel: convert the images to 8 bits.")
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
