"""A data set, decoded: its splits, and what is worth saying of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int64
from torch import Tensor

from sparring.data.images import Images
from sparring.data.tables import Table
from sparring.errors import some

_FEW = 20  # one image in so many, or fewer, is an exception


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set, decoded: training, validation and test images have no sample in common."""

    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    name: str
    fingerprint: str  # 16 hexadecimal digits that change with any pixel or label
    mean: tuple[float, ...]  # of the training pixels in [0, 1], per channel
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()  # sentences about what was found, such as classes without images
    train_fingerprint: str = ""  # of the training and the validation images alone, whatever is tested

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many images of each class there are, by split and by the class's name."""
        return {
            name: dict(zip(self.classes, images.labels.bincount(minlength=len(self.classes)).tolist(), strict=True))
            for name, images in (("train", self.train), ("validation", self.validation), ("test", self.test))
        }

    def __str__(self) -> str:
        """Return the numbers of images, classes and pixels, in a sentence."""
        channels, height, width = self.shape
        held_out = f", {len(self.validation):,} held out" if len(self.validation) else ""
        return (
            f"{self.name}: {len(self.train):,} training images{held_out}, {len(self.test):,} test images, "
            f"{len(self.classes)} classes, {channels} x {height} x {width} pixels."
        )

    def seen(self) -> Int64[Tensor, "N"]:
        """Return the digests of the training and the validation images, sorted: what a network was made from."""
        return torch.cat([image_digests(self.train.pixels), image_digests(self.validation.pixels)]).sort().values

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.test.pixels.shape[1:]
        return channels, height, width


def repeated(found: Splits) -> Iterator[str]:
    """Yield how many test images are among the training images, pixel for pixel."""
    again = int(torch.isin(image_digests(found.test.pixels), image_digests(found.train.pixels)).sum())
    if again:
        yield (
            f"{again} of {len(found.test)} test images are training images, too, pixel for pixel: what is found on them "
            "says nothing of new images."
        )


def missing(found: Splits) -> Iterator[str]:
    """Yield which classes have no training images, and which no test images."""
    counts = found.counts()
    for split, words in (("train", "training"), ("test", "test")):
        lacking = [name for name, count in counts[split].items() if not count]
        if lacking and len(lacking) < len(found.classes):
            yield f"No {words} images of {len(lacking)} of the {len(found.classes)} classes: {some(lacking)}."


def confusable(classes: Sequence[str]) -> Iterator[str]:
    """Yield which classes have one name but for upper and lower case, spaces and leading zeros."""
    by_letters: dict[str, list[str]] = {}
    for name in classes:
        bare = "".join(name.casefold().split())
        by_letters.setdefault(bare.lstrip("0") if bare.isdecimal() else bare, []).append(name)
    if twins := [names for names in by_letters.values() if len(names) > 1]:
        called = some([" and ".join(map(repr, names)) for names in twins])
        yield f"Different classes are called {called}: if that is one class, put its images together."


def sorted_as_letters(classes: Sequence[str]) -> Iterator[str]:
    """Yield that classes which are numbers are not counted as such."""
    if not all(name.isascii() and name.isdecimal() for name in classes):
        return
    before, after = next((pair for pair in pairwise(classes) if int(pair[0]) > int(pair[1])), ("", ""))
    if before:
        yield (
            f"The classes are numbers in alphabetical order, {before!r} before {after!r}: a network from elsewhere may "
            "count them otherwise."
        )


def few_coloured(tables: Sequence[tuple[Table, Tensor, Tensor]]) -> Iterator[str]:
    """Yield which images make a gray data set a coloured one, if they are few: (table, rows, pixels) of each split."""
    exceptions: list[tuple[Table, int]] = []
    total = 0
    for table, rows, pixels in tables:
        if pixels.shape[1] == 1:
            return
        coloured = rows[(pixels != pixels[:, :1]).flatten(1).any(1)].tolist()
        if len(coloured) * _FEW > len(rows):
            return
        exceptions += [(table, row) for row in coloured]
        total += len(rows)
    if exceptions:
        table, row = exceptions[0]
        yield (
            f"{len(exceptions)} of {total} images have colours, such as {table.read([row])[0].name}, so all are given three "
            "channels: convert them to gray if they should be."
        )


def image_digests(pixels: Tensor) -> Int64[Tensor, "N"]:
    """Return 64 bits for each image (N, C, H, W), of bytes or of fractions rounded to them: equal ones for equal images."""
    levels = pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8)
    shape = str(tuple(pixels.shape[1:])).encode()
    digests = (hashlib.blake2b(shape + image.tobytes(), digest_size=8).digest() for image in levels.numpy())
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


def images_fingerprint(*splits: Images) -> str:
    """Return 16 hexadecimal digits that change with any pixel or label."""
    summary = hashlib.sha256()
    for images in splits:
        summary.update(str(tuple(images.pixels.shape)).encode())
        summary.update(images.pixels.contiguous().numpy().data)
        summary.update(images.labels.numpy().data)
    return summary.hexdigest()[:16]
