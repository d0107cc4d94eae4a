"""Folders of images: a sub-folder a class, in folders for training and testing or without them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from sparring.data.cache import digest_files
from sparring.data.decode import Encoded
from sparring.data.tables import Source, Table, composed
from sparring.errors import BadInput

_TRAIN_NAMES = ("train", "training")
_SAME = (_TRAIN_NAMES, ("test", "testing"), ("val", "valid", "validation"))  # names of one part of a data set
# Of folders that hold a part of the images rather than a class of them, in lower case.
_PARTS = {
    *_TRAIN_NAMES,
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


@dataclass(frozen=True, eq=False)
class _Classes:
    """The image files of each class, in alphabetical order, and what to say of the others."""

    files: dict[str, dict[str, Path]]  # by class, then by the path that remains when links are followed
    notes: tuple[str, ...]

    def table(self, classes: Iterable[str]) -> Table:
        """Return the files, numbered by the position of their class in `classes`."""
        numbers = {name: number for number, name in enumerate(classes)}
        flat = list(self)
        labels = [numbers[name] for name, files in self.files.items() for _ in files]
        return Table(
            torch.tensor(labels, dtype=torch.int64), lambda rows: [Encoded(str(flat[row]), flat[row]) for row in rows]
        )

    def __iter__(self) -> Iterator[Path]:
        return (file for files in self.files.values() for file in files.values())

    def key(self) -> str:
        """Return digits that change with the content of any file."""
        return digest_files(self)


def image_folder(
    folder: Path, test_names: tuple[str, ...], *, needs_train: bool = True, known: Sequence[str] = ()
) -> Source:
    """Return a folder with one sub-folder a class, or with train (or training) and one of `test_names`, each with such.

    These names count in any case. The classes are the sub-folders that hold images, at any depth, in alphabetical order;
    hidden ones and `__MACOSX` do not count, and symbolic links are followed. A folder called `train` with images right in it
    is a class. Without `needs_train` test images alone will do; their classes are `known` ones where all are among these.

    Raises BadInput where there are fewer than two classes, no test folder beside the training folder, two of either, unknown
    classes among the test images, for folders that seem to be parts of a data set rather than classes, and for links that
    lead to a folder above them, or that give an image two classes or put it among training and test images.
    """
    train_folders, test_folders = _parts(folder, _TRAIN_NAMES), _parts(folder, test_names)
    if not test_folders:
        if not train_folders:
            return _flat(folder)
        raise BadInput(
            f"{folder} has a folder {train_folders[0].name}, but no test images: add a folder {test_names[0]}."
        )
    if not train_folders and needs_train:
        return _flat(folder)
    test = _classes(test_folders[0], least=1 if train_folders or known else 2)
    unused = tuple(f"Not used: {other}, beside {test_folders[0]}." for other in test_folders[1:])
    if not train_folders:
        _check_apart(test)
        nothing = Table(torch.zeros(0, dtype=torch.int64), lambda rows: [])
        classes = tuple(known if set(test.files) <= set(known) else test.files)
        return Source(nothing, test.table(classes), classes, test.key(), test.notes + unused)
    train = _classes(train_folders[0])
    if foreign := sorted(test.files.keys() - train.files.keys()):
        raise BadInput(
            f"{test_folders[0]} has a class {foreign[0]!r} that {train_folders[0]} lacks: give both the same."
        )
    _check_apart(train, test)
    return Source(
        train.table(train.files),
        test.table(train.files),
        tuple(train.files),
        train.key() + test.key(),
        train.notes + test.notes + unused,
    )


def _flat(folder: Path) -> Source:
    """Return a folder of classes, of which the test images are still to be divided."""
    found = _classes(folder)
    parts = [name for name in found.files if name.lower() in _PARTS]
    if (
        len(parts) > 1
        or any(_has_classes(folder / name) for name in parts)
        or _named_like_parts(found.files)
        or _alike(folder)
    ):
        for part in parts:
            _check_no_strays(folder / part)
        raise BadInput(
            f"{folder} has the folders {', '.join(map(repr, found.files))}, which look like parts of a data set and not "
            "like classes: call the training images' folder train and the test images' folder test, each with a folder a "
            "class. Classes that have such names have to be divided in this way, too."
        )
    for child in _folders(folder):
        inside = [one for one in _folders(child) if one.name.lower() in _PARTS]
        if len(inside) > 1 or any(map(_has_classes, inside)):
            names = " and ".join(one.name for one in inside)
            raise BadInput(
                f"{child} has {names} in it, which looks like a part of a data set and not like images of a class: give "
                f"{child} itself, or put the folders of classes into train and test."
            )
    _check_apart(found)
    return Source(found.table(found.files), None, tuple(found.files), found.key(), found.notes)


def _check_no_strays(part: Path) -> None:
    """Raise BadInput for a part of a data set with folders of images and images beside them."""
    beside = [file for file, _ in _images(part) if file.parent == part]
    if beside and len([one for one in _folders(part) if any(_images(one))]) > 1:
        raise BadInput(
            f"{min(beside)} lies beside the folders of the classes: put it into one of them, or remove it ({len(beside)} "
            f"images in {part} do)."
        )


def _check_apart(*groups: _Classes) -> None:
    """Raise BadInput for an image that links put into two classes, or into two groups of images."""
    first: dict[str, Path] = {}
    for group in groups:
        for files in group.files.values():
            for real, file in files.items():
                if (other := first.setdefault(real, file)) is not file:
                    raise BadInput(
                        f"{other} and {file} are the same file, because of a link: an image is of one class, and for "
                        "training or for testing; remove one of the two."
                    )


def _named_like_parts(names: Iterable[str]) -> bool:
    """Return whether one has train in its name and another one test or val, such as training_set and test_set."""
    lower = [name.lower() for name in names]
    train = {name for name in lower if "train" in name}
    return bool(train) and any(word in name for word in ("test", "val") for name in lower if name not in train)


def _alike(folder: Path) -> bool:
    """Return whether all sub-folders hold the same two or more folders of images, which then are the classes."""
    children = _folders(folder)
    if not all(map(_has_classes, children)):
        return False
    inside = [{one.name for one in _folders(child)} for child in children]
    return len(inside) > 1 and len(inside[0]) > 1 and all(names == inside[0] for names in inside)


def _parts(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the sub-folders so called, in any case, whose images are in folders of their own; the best name first.

    Raises BadInput where two of them are for the same.
    """
    found = [child for child in _folders(folder) if child.name.lower() in names and _has_classes(child)]
    found.sort(key=lambda child: names.index(child.name.lower()))
    for same in _SAME:
        if len(twins := [child.name for child in found if child.name.lower() in same]) > 1:
            raise BadInput(f"{folder} has {twins[0]} and {twins[1]}: put their images together, or rename one.")
    return found


def _has_classes(folder: Path) -> bool:
    """Return whether there are images in sub-folders, and none beside them."""
    files = [file for file, _ in _images(folder)]
    return bool(files) and all(file.parent != folder for file in files)


def _classes(folder: Path, least: int = 2) -> _Classes:
    """Return the image files below each sub-folder that has some; raises BadInput for fewer than `least` such."""
    found: dict[str, dict[str, Path]] = {}
    notes, others = [], []
    children = {child: composed(child.name) for child in _folders(folder)}
    for child, name in sorted(children.items(), key=lambda pair: pair[1]):
        if name in found:
            raise BadInput(f"{folder} has two folders that both read {name!r}, in other bytes: put them together.")
        files: dict[str, Path] = {}
        for file, real in sorted(_files(child)):
            if _is_image(file):
                files.setdefault(real, file)
            else:
                others.append(file)
        if files:
            found[name] = files
        else:
            notes.append(f"The folder {child} has no images that can be read: it is no class.")
    if len(found) < least:
        raise BadInput(_too_few(folder))
    if others:
        are = "file is no image" if len(others) == 1 else "files are no images"
        notes.append(f"{len(others)} {are} that can be read, such as {others[0]}.")
    return _Classes(found, tuple(notes))


def _too_few(folder: Path) -> str:
    what = "no sub-folder with images"
    for child in (child for child in _folders(folder) if any(_images(child))):
        if len(_folders(child)) > 1 and _has_classes(child):
            return f"{folder} has only one sub-folder with images, and the classes seem to be in it: give {child}."
        what = "only one sub-folder with images"
    return f"{folder} has {what}: give a folder with one sub-folder for each of two or more classes, or with parquet files."


def _folders(folder: Path) -> list[Path]:
    """Return the sub-folders that count, in alphabetical order."""
    return [child for child in _children(folder) if child.is_dir() and child.name != _PACKAGING]


def _children(folder: Path) -> list[Path]:
    """Return what a folder holds and does not hide, in alphabetical order."""
    try:
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise BadInput(f"{folder} cannot be read ({error.strerror}): change its permissions, or remove it.") from error


def _images(folder: Path) -> Iterator[tuple[Path, str]]:
    return (found for found in _files(folder) if _is_image(found[0]))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in _IMAGES


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files at any depth, and the path of each that remains when links are followed; a linked folder only once.

    Links that lead nowhere are files, too. Raises BadInput for a link to a folder above it.
    """
    entered: set[str] = set()

    def below(place: Path, above: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
        real = os.path.realpath(place)
        if place.is_symlink() and any(Path(outer).is_relative_to(real) for outer in above):
            raise BadInput(f"{place} is a link to {real}, a folder that it lies in: remove the link.")
        if real in entered:
            return
        entered.add(real)
        for child in _children(place):
            if child.is_dir():
                if child.name != _PACKAGING:
                    yield from below(child, (*above, real))
            elif child.is_file() or not child.exists():
                yield child, os.path.realpath(child) if child.is_symlink() else f"{real}{os.sep}{child.name}"

    return below(folder, (os.path.realpath(folder.parent),))
