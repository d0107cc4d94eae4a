"""Data sets by name or path: from a `Data` configuration to decoded training, validation and test images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sparring.choices import check_choices, check_kind
from sparring.data.augment import Augment
from sparring.data.cache import cached, digest
from sparring.data.decode import Undecodable, decode
from sparring.data.folders import image_folder
from sparring.data.images import Images
from sparring.data.splits import (
    Splits,
    confusable,
    few_coloured,
    images_fingerprint,
    missing,
    repeated,
    sorted_as_letters,
)
from sparring.data.tables import Source, Table, digits
from sparring.errors import BadInput, unknown
from sparring.randomness import seed_from

_TRAIN_LIMIT, _TEST_LIMIT, _TEST, _VALIDATION = range(4)  # what a seed is for
_TEST_NAMES = ("test", "testing", "valid", "validation", "val")


@dataclass(frozen=True)
class Known:
    """A data set that has a name."""

    hub: str
    classes: int
    channels: Literal[1, 3]
    test: str = "test"  # its split with public labels that is not for training


KNOWN = {
    "cifar10": Known("uoft-cs/cifar10", 10, 3),
    "cifar100": Known("uoft-cs/cifar100", 100, 3),
    "gtsrb": Known("tanganke/gtsrb", 43, 3),
    "tiny_imagenet": Known("zh-plus/tiny-imagenet", 200, 3, test="valid"),
    "imagenet": Known("ILSVRC/imagenet-1k", 1000, 3, test="validation"),
    "mnist": Known("ylecun/mnist", 10, 1),
    "fashion_mnist": Known("zalando-datasets/fashion_mnist", 10, 1),
}


@dataclass
class Data:
    """Which images to train and test on.

    name: `digits` (embedded), a name in `KNOWN`, a hub id (`owner/name`), or any name of your own together with `path`.
    path: a folder with train.parquet and test.parquet (or valid, validation, val), or their parts, such as
        train-00000-of-00002.parquet, itself or in its folder data; or with images in one sub-folder a class, either inside
        train/ and test/ or flat; of a flat one a fifth becomes the test set.
    limit: use that many training images, drawn at random; the validation images are among them.
    test_limit: use that many test images, drawn at random.
    validation: how many training images to hold out for choosing the best checkpoint, each class in proportion;
        None is 2% of them, but at least 100 (or a tenth, if that is fewer) and at most 1000; 0 is none.
    augment: random crop and flip of the training images.
    size: resize the shorter side to so many pixels and keep the central square; needed where sizes differ.
    seed: of the random choices above, apart from the run's seed, so that runs with other seeds see the same splits.
    """

    name: str = "digits"
    path: str | None = None
    limit: int | None = None
    test_limit: int | None = None
    validation: int | None = None
    augment: Augment = field(default_factory=Augment)
    size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise BadInput for values of other types; a Path will do for `path`."""
        given: object = self.path
        if isinstance(given, Path):
            self.path = str(given)
        check_choices(self)


def load(data: Data, *, needs_train: bool = True, classes: Sequence[str] = ()) -> Splits:
    """Return the data set that `data` describes; the same configuration gives the same images in the same order.

    Images keep the order of their table, so that the index of a training image is stable from run to run. Known data
    sets have the channels that they are known for; others have one if all their images are gray, else three. Without
    `needs_train` test images alone will do, and there may be no others; where all of their classes are among `classes`, a
    network's, they are numbered as these.
    Raises BadInput where the configuration, the files or the hub do not allow it.
    """
    _check(data)
    known = KNOWN.get(data.name)
    source = _source(data, known, needs_train=needs_train, classes=classes)
    _check_classes(source, data, known)
    all_train, all_test = _divided(source, data.seed)
    train_rows = _drawn(all_train, data.limit, "limit", seed_from(data.seed, _TRAIN_LIMIT))
    test_rows = _drawn(all_test, data.test_limit, "test_limit", seed_from(data.seed, _TEST_LIMIT))
    labels = source.train.labels[train_rows]
    count = _validation_count(len(labels), data) if len(labels) else 0
    held_out, kept = _divide(labels, count, seed_from(data.seed, _VALIDATION))
    pixels, test_pixels = _decoded(source, train_rows, test_rows, known, data.size)
    train = Images(pixels[kept], labels[kept])
    validation = Images(pixels[held_out], labels[held_out])
    test = Images(test_pixels, (source.test or source.train).labels[test_rows])
    mean, std = _moments(train.pixels)
    fingerprint = images_fingerprint(train, validation, test)
    found = Splits(train, validation, test, source.classes, data.name, fingerprint, mean, std)
    tables = ((source.train, train_rows, pixels), (source.test or source.train, test_rows, test_pixels))
    about_classes = (*confusable(source.classes), *sorted_as_letters(source.classes), *missing(found))
    notes = (*source.notes, *about_classes, *few_coloured(tables), *repeated(found))
    return replace(found, notes=notes, train_fingerprint=images_fingerprint(train, validation))


def _check(data: Data) -> None:
    """Refuse what cannot be right whatever the data are."""
    check_kind("The data", data, Data)
    check_choices(data)  # once more, as fields may have been set since
    for name, value in (("limit", data.limit), ("test_limit", data.test_limit), ("size", data.size)):
        if value is not None and value < 1:
            raise BadInput(f"data.{name} is {value}: give at least 1, or leave it out.")
    if data.validation is not None and data.validation < 0:
        raise BadInput(f"data.validation is {data.validation}: give a number of images, 0 for none.")
    if data.path is None:
        if data.name != "digits" and data.name not in KNOWN and "/" not in data.name:
            raise unknown("data set", data.name, ["digits", *KNOWN])
    elif data.name == "digits":
        raise BadInput(
            f"data.path is {data.path!r}, but data.name is 'digits', which needs none: name the data set "
            f"({', '.join(KNOWN)}, or any name of your own)."
        )
    elif not (path := Path(data.path).expanduser()).is_dir():
        wrong = "is not a folder" if path.exists() else "does not exist"
        raise BadInput(f"data.path is {data.path!r}, which {wrong}: give a folder with parquet files or images.")


def _check_classes(source: Source, data: Data, known: Known | None) -> None:
    found, where = len(source.classes), data.path or data.name
    if known is not None and found != known.classes:
        raise BadInput(
            f"data.name is {data.name!r}, which has {known.classes} classes, but {where} has {found}: "
            "give it a name of its own, such as my-data."
        )
    if found < 2:
        raise BadInput(f"{where} has {found} class: give a data set with two or more.")


def _source(data: Data, known: Known | None, *, needs_train: bool, classes: Sequence[str]) -> Source:
    test_names = (known.test, *_TEST_NAMES) if known else _TEST_NAMES
    if data.path is None and data.name == "digits":
        return digits()
    folder = Path(data.path).expanduser() if data.path is not None else None
    if folder is not None and not any(folder.glob("*.parquet")):
        if not any(folder.glob("data/*.parquet")):  # as repositories of the hub are laid out
            if inside := next(iter(sorted(folder.glob("*/*.parquet"))), None):
                raise BadInput(
                    f"{folder} has parquet files in its folders, such as {inside}: move them to {folder}, and call them "
                    "train-00000-of-00001.parquet and test-00000-of-00001.parquet or so."
                )
            return image_folder(folder, test_names, needs_train=needs_train, known=classes)
        folder = folder / "data"
    from sparring.data.hub import hub  # here, because `datasets` takes a second to import
    from sparring.data.parquet import parquet

    return (
        parquet(folder, test_names, needs_train=needs_train, known=classes)
        if folder is not None
        else hub(known.hub if known else data.name, test_names)
    )


def _divided(source: Source, seed: int) -> tuple[Int64[Tensor, "N"], Int64[Tensor, "M"]]:
    """Return the rows of the training and of the test table, each in ascending order; of one table, a fifth is for tests."""
    if source.test is not None:
        return torch.arange(len(source.train)), torch.arange(len(source.test))
    test, train = _divide(source.train.labels, math.ceil(len(source.train) / 5), seed_from(seed, _TEST))
    return train, test


def _drawn(rows: Tensor, limit: int | None, name: str, seed: int) -> Tensor:
    """Return the first `limit` of the shuffled rows, in ascending order; all of them for None."""
    if limit is None:
        return rows
    if limit > len(rows):
        raise BadInput(f"data.{name} is {limit}, but there are only {len(rows)} images: lower it, or leave it out.")
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[shuffled[:limit]].sort().values


def _validation_count(available: int, data: Data) -> int:
    if data.validation is None:
        return min(1000, max(available // 50, min(100, available // 10)))
    if data.validation >= available:
        raise BadInput(
            f"data.validation is {data.validation}, but there are only {available} training images: lower it."
        )
    return data.validation


def _divide(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the positions of `count` random labels, each class in proportion up to one image, and those of the rest."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[by_class[torch.arange(count) * len(labels) // max(count, 1)]] = True  # evenly spaced: in proportion
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()


def _decoded(
    source: Source, train_rows: Tensor, test_rows: Tensor, known: Known | None, size: int | None
) -> tuple[UInt8[Tensor, "N C H W"], UInt8[Tensor, "M C H W"]]:
    """Return the pixels of the chosen training and test images, alike in channels and size."""
    channels = known.channels if known else 3
    parts = [(source.train, train_rows)] if len(train_rows) else []
    parts.append((source.test or source.train, test_rows))
    decoded: list[Tensor] = []
    damaged: list[tuple[str, str]] = []
    for table, rows in parts:
        try:
            decoded.append(_pixels(source, table, rows, channels, size))
        except Undecodable as error:
            damaged += error.images
    if damaged:
        raise Undecodable(damaged)
    test = decoded[-1]
    train = decoded[0] if len(train_rows) else test[:0]
    if train.shape[1:] != test.shape[1:]:
        raise BadInput(
            f"The training images have {tuple(train.shape[2:])} pixels, the test images {tuple(test.shape[2:])}: "
            "set data.size to resize them all."
        )
    if known is None and _is_gray(train) and _is_gray(test):
        return train[:, :1].contiguous(), test[:, :1].contiguous()
    return train, test


def _pixels(source: Source, table: Table, rows: Tensor, channels: Literal[1, 3], size: int | None) -> Tensor:
    """Return the decoded images of some rows, from the cache where they have been decoded before."""

    def make() -> Tensor:
        return decode(table.read, rows, channels, size)

    if source.key is None:
        return make()
    part = "test" if table is source.test else "train"
    selection = hashlib.sha256(rows.numpy().data).hexdigest()
    return cached(digest(source.key, part, selection, str(channels), str(size)), make)


def _is_gray(pixels: UInt8[Tensor, "N 3 H W"]) -> bool:
    return all(torch.equal(pixels[:, 0], pixels[:, channel]) for channel in (1, 2))


def _moments(pixels: UInt8[Tensor, "N C H W"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel in [0, 1], from exact counts of the 256 levels."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    if len(pixels) == 0:
        return (0.0,) * pixels.shape[1], (1.0,) * pixels.shape[1]
    means, deviations = [], []
    for channel in pixels.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()  # (256,)
        mean = (share * levels).sum()
        means.append(mean.item())
        deviations.append((share * (levels - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(deviations)
