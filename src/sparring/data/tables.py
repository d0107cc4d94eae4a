"""Where labelled images come from, before anything is decoded: a `Source` of one or two tables of encoded images.

Here are the embedded digits; `folders` has folders of images, `hub` what goes through Hugging Face `datasets`.
"""

from __future__ import annotations

import io
import unicodedata
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from sparring.data.decode import Encoded, Reader


@dataclass(frozen=True, eq=False)
class Table:
    """The labels of a split, and a way to its encoded images by row number."""

    labels: Int64[Tensor, "N"]
    read: Reader

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Source:
    """Everything that one data set offers."""

    train: Table
    test: Table | None  # None: the training table holds everything and is still to be divided
    classes: tuple[str, ...]
    key: str | None  # changes with the encoded images; None: embedded, not worth a cache
    notes: tuple[str, ...] = ()  # sentences about what was found and left out


def composed(name: str) -> str:
    """Return a class's name with each accented letter in one form of the two that Unicode has (NFC), to be compared."""
    return unicodedata.normalize("NFC", name)


def digits() -> Source:
    """Return the 1797 handwritten digits that come with scikit-learn: 8 x 8 pixels, 17 gray levels spread over 0 .. 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = (bunch.images * (255 / 16)).round().astype("uint8")  # (1797, 8, 8)
    encoded = []
    for number, level in enumerate(levels):
        stream = io.BytesIO()
        Image.fromarray(level).save(stream, "PNG")
        encoded.append(Encoded(f"digit {number}", stream.getvalue()))
    table = Table(torch.from_numpy(bunch.target).to(torch.int64), lambda rows: [encoded[row] for row in rows])
    return Source(table, None, tuple(str(name) for name in bunch.target_names), key=None)
