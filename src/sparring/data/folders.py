"""Folders of images: a sub-folder a class, in folders for training and testing or without them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from PIL import Image

from sparring.data.cache import digest_files
from sparring.data.decode import Encoded
from sparring.data.tables import Source, Table
from sparring.errors import BadInput

TRAIN_NAMES = ("train", "training")
# Of folders that hold a part of the images rather than a class of them, in lower case.
_PARTS = {
    *TRAIN_NAMES,
    "test",
    "testing",
    "val",
    "valid",
    "validation",
    "eval",
    "evaluation",
    "dev",
    "holdout",
    "unlabeled",
    "unlabelled",
}
_IMAGES = {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
} & set(Image.registered_extensions())
_PACKAGING = "__MACOSX"  # what archives made on a Mac have beside the images


def image_folder(folder: Path, test_names: tuple[str, ...], *, needs_train: bool = True) -> Source:
    """Return a folder with one sub-folder a class, or with one of `TRAIN_NAMES` and one of `test_names`, each with such.

    Their names count in any case. The classes are the sub-folders that hold images, at any depth, in alphabetical order;
    hidden ones and `__MACOSX` do not count, and symbolic links are followed. A folder called `train` with images right in it
    is a class. Without `needs_train` test images alone will do.

    Raises BadInput where there are fewer than two classes, no test folder beside the training folder, unknown classes in it,
    and for folders that seem to be parts of a data set rather than classes.
    """
    train_folder, test_folder = _part(folder, TRAIN_NAMES), _part(folder, test_names)
    if test_folder is None:
        if train_folder is None:
            return _flat(folder)
        raise BadInput(f"{folder} has a folder {train_folder.name}, but no test images: add a folder {test_names[0]}.")
    if train_folder is None and needs_train:
        return _flat(folder)
    test, empty = _files_by_class(test_folder)
    if train_folder is None:
        return Source(_table({}, []), _table(test, list(test)), tuple(test), _key(test), empty)
    train, others = _files_by_class(train_folder)
    if foreign := sorted(test.keys() - train.keys()):
        raise BadInput(f"{test_folder} has a class {foreign[0]!r} that {train_folder} lacks: give both the same.")
    classes = list(train)
    return Source(
        _table(train, classes), _table(test, classes), tuple(classes), _key(train) + _key(test), others + empty
    )


def _flat(folder: Path) -> Source:
    """Return a folder of classes, of which the test images are still to be divided."""
    files, empty = _files_by_class(folder)
    parts = [name for name in files if name.lower() in _PARTS]
    if (
        len(parts) > 1
        or any(_has_classes(folder / name) for name in parts)
        or _named_like_parts(files)
        or _alike(folder)
    ):
        raise BadInput(
            f"{folder} has the folders {', '.join(map(repr, files))}, which look like parts of a data set and not like "
            "classes: call the training images' folder train and the test images' folder test, each with a folder a class."
        )
    for child in sorted(child for child in folder.iterdir() if _counts(child)):
        inside = sorted(one for one in child.iterdir() if one.is_dir() and one.name.lower() in _PARTS)
        if len(inside) > 1 or any(map(_has_classes, inside)):
            names = " and ".join(one.name for one in inside)
            raise BadInput(
                f"{child} has {names} in it, which looks like a part of a data set and not like images of a class: give "
                f"{child} itself, or put the folders of classes into train and test."
            )
    return Source(_table(files, list(files)), None, tuple(files), _key(files), empty)


def _named_like_parts(names: Iterable[str]) -> bool:
    """Return whether one has train in its name and another one test or val, such as training_set and test_set."""
    lower = [name.lower() for name in names]
    train = {name for name in lower if "train" in name}
    return bool(train) and any(word in name for word in ("test", "val") for name in lower if name not in train)


def _alike(folder: Path) -> bool:
    """Return whether all sub-folders hold the same two or more folders of images, which then are the classes."""
    children = [child for child in folder.iterdir() if _counts(child)]
    if not all(map(_has_classes, children)):
        return False
    inside = [{one.name for one in child.iterdir() if _counts(one)} for child in children]
    return len(inside) > 1 and len(inside[0]) > 1 and all(names == inside[0] for names in inside)


def _part(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the sub-folder with the first of these names, in any case, whose images are in folders of their own."""
    children = {child.name.lower(): child for child in sorted(folder.iterdir(), reverse=True) if child.is_dir()}
    return next((children[name] for name in names if name in children and _has_classes(children[name])), None)


def _has_classes(folder: Path) -> bool:
    """Return whether there are images in sub-folders, and none beside them."""
    files = list(_images(folder))
    return bool(files) and all(file.parent != folder for file in files)


def _files_by_class(folder: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """Return the image files below each sub-folder that has some, in alphabetical order; and what to say of the others."""
    found: dict[str, list[Path]] = {}
    empty = []
    children = {child: unicodedata.normalize("NFC", child.name) for child in folder.iterdir() if _counts(child)}
    for child, name in sorted(children.items(), key=lambda pair: pair[1]):
        if name in found:
            raise BadInput(f"{folder} has two folders that both read {name!r}, in other bytes: put them together.")
        if files := sorted(_images(child)):
            found[name] = files
        else:
            empty.append(f"The folder {child} has no images that can be read: it is no class.")
    if len(found) < 2:
        raise BadInput(_too_few(folder, found))
    return found, tuple(empty)


def _too_few(folder: Path, found: dict[str, list[Path]]) -> str:
    if not found:
        what = "no sub-folder with images"
    else:
        (name,) = found
        inside = [child for child in (folder / name).iterdir() if _counts(child)] if (folder / name).is_dir() else []
        if len(inside) > 1 and _has_classes(folder / name):
            return (
                f"{folder} has only one sub-folder with images, and the classes seem to be in it: give {folder / name}."
            )
        what = "only one sub-folder with images"
    return f"{folder} has {what}: give a folder with one sub-folder for each of two or more classes, or with parquet files."


def _counts(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".") and folder.name != _PACKAGING


def _images(folder: Path) -> Iterator[Path]:
    """Yield the image files below a folder; each linked folder once, as links may lead back."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        if (real := here.resolve()) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if _counts(here / name))
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in _IMAGES:
                yield here / name


def _table(files: dict[str, list[Path]], classes: list[str]) -> Table:
    flat = [file for group in files.values() for file in group]
    labels = [classes.index(name) for name, group in files.items() for _ in group]
    numbers = torch.tensor(labels, dtype=torch.int64)
    return Table(numbers, lambda rows: [Encoded(str(flat[row]), flat[row]) for row in rows])


def _key(files: dict[str, list[Path]]) -> str:
    return digest_files(file for group in files.values() for file in group)
