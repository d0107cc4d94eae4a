"""Where labelled images come from, before anything is decoded: a `Source` of one or two tables of encoded images.

Here are the embedded digits and folders of images; `hub` has what goes through Hugging Face `datasets`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from sparring.data.cache import digest_files
from sparring.data.decode import Encoded, Reader
from sparring.errors import BadInput

_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


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


def image_folder(folder: Path, test_names: tuple[str, ...]) -> Source:
    """Return a folder with one sub-folder a class, or with `train` and one of `test_names`, each with one a class.

    The classes are the sub-folders that hold images, at any depth, in alphabetical order; hidden ones do not count.
    Raises BadInput where there are fewer than two classes, no test folder beside `train`, or unknown classes in it.
    """
    if not (folder / "train").is_dir():
        files = _files_by_class(folder)
        return Source(_table(files, list(files)), None, tuple(files), _key(files))
    test_folder = next((folder / name for name in test_names if (folder / name).is_dir()), None)
    if test_folder is None:
        raise BadInput(f"{folder} has a folder train, but no test images: add a folder {test_names[0]}.")
    train, test = _files_by_class(folder / "train"), _files_by_class(test_folder)
    if foreign := sorted(test.keys() - train.keys()):
        raise BadInput(f"{test_folder} has a class {foreign[0]!r} that {folder / 'train'} lacks: give both the same.")
    classes = list(train)
    return Source(_table(train, classes), _table(test, classes), tuple(classes), _key(train) + _key(test))


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    """Return the image files below each sub-folder that has some, all in alphabetical order."""
    found = {}
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            files = sorted(file for file in child.rglob("*") if _is_image(file))
            if files:
                found[child.name] = files
    if len(found) < 2:
        raise BadInput(
            f"{folder} has {'no sub-folder' if not found else 'only one sub-folder'} with images: "
            "give a folder with one sub-folder for each of two or more classes, or with parquet files."
        )
    return found


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in _IMAGES and not file.name.startswith(".")


def _table(files: dict[str, list[Path]], classes: list[str]) -> Table:
    flat = [file for group in files.values() for file in group]
    labels = [classes.index(name) for name, group in files.items() for _ in group]
    return Table(torch.tensor(labels), lambda rows: [Encoded(str(flat[row]), flat[row]) for row in rows])


def _key(files: dict[str, list[Path]]) -> str:
    return digest_files(file for group in files.values() for file in group)
