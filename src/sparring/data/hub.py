"""Tables of images in the types of Hugging Face `datasets`, such as data sets of the hub: which columns, which classes.

Importing `datasets` takes more than a second, so this module is imported where it is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa  # type: ignore[import-untyped]
import torch
from datasets.exceptions import DatasetsError

from sparring.data.decode import Encoded, Reader
from sparring.data.tables import Source, Table, composed
from sparring.errors import BadInput, some
from sparring.terminal import errors_alone

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label")
_MOST_CLASSES = 100_000  # larger numbers are identifiers of something


def hub(repository: str, test_names: tuple[str, ...]) -> Source:
    """Return a data set of the hub, `owner/name`; its test split is the first of `test_names` that it has.

    Raises BadInput where it cannot be reached, or has no such splits or columns.
    """
    try:
        with _no_progress_bars(), errors_alone("huggingface_hub"):  # which says six times that it tries again
            builder = datasets.load_dataset_builder(repository)
            builder.download_and_prepare()
            splits = builder.as_dataset()
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"The data set {repository} cannot be loaded from the Hugging Face hub ({reason}): "
            "set data.path to a folder that holds it."
        ) from error
    test_name = next((name for name in test_names if name in splits), None)
    if "train" not in splits or test_name is None:
        raise BadInput(f"{repository} has the splits {sorted(splits)}: a train and a {test_names[0]} split are needed.")
    return source_of(splits["train"], splits[test_name], repository, key=f"{repository} {builder.hash}")


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def columns_of(names: list[str], where: str) -> tuple[str, str]:
    """Return the names of the image and of the label column."""
    image = next((name for name in _IMAGE_COLUMNS if name in names), None)
    label = next((name for name in _LABEL_COLUMNS if name in names), None)
    if image is None or label is None:
        missing = " or ".join(_IMAGE_COLUMNS if image is None else _LABEL_COLUMNS)
        raise BadInput(f"{where} has the columns {', '.join(names)}: rename one to {missing}.")
    return image, label


def source_of(
    train: datasets.Dataset | None,
    test: datasets.Dataset,
    where: str,
    key: str,
    folder: Path = Path(),
    known: Sequence[str] = (),
) -> Source:
    """Return the tables of both splits; where there is nothing to train on, labels that are numbers stay as they are.

    Images that are named and not held lie in the folder, unless their path is a whole one. Names of test images alone are
    numbered as `known` ones, a network's, where all are among these.
    """
    splits = {"test": test} if train is None else {"train": train, "test": test}
    declared = {split: _class_names(dataset, where) for split, dataset in splits.items()}
    names = declared.get("train") or declared["test"]
    if declared["test"] and declared["test"] != names:
        raise BadInput(f"{where} declares other classes, or another order of them, for test than for train.")
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise BadInput(f"{where} declares two classes that both read {twice!r}: write the labels with one of them.")
    labels = {split: _labels(dataset, f"{where}, {split}") for split, dataset in splits.items()}
    if train is None and not names and all(_is_count(label) for label in labels["test"]):
        labels["test"] = [int(label) for label in labels["test"]]  # as a network of other origin counts its outputs
    for split, found in labels.items():
        if not found:
            raise BadInput(f"{where}, {split} has no rows: give some images.")
    of_test = dict(enumerate(names))
    own = [of_test.get(label, label) if isinstance(label, int) else label for label in labels["test"]]
    if train is None and {*own, *names} <= {*known}:
        labels["test"], names = own, list(known)
    distinct = range(len(names)) if names else _distinct(labels, where)
    number = {label: position for found in (distinct, names) for position, label in enumerate(found)}
    tables = {"train": Table(torch.zeros(0, dtype=torch.int64), lambda rows: [])}
    for split, found in labels.items():
        for row, label in enumerate(found):
            if label not in number:
                raise BadInput(
                    f"{where}, {split}, row {row} has the label {label!r}, which is none of the {len(distinct)} classes "
                    f"({some([repr(name) for name in names])}): correct it, or remove the row."
                )
        read = _reader(splits[split], f"{where}, {split}", folder)
        tables[split] = Table(torch.tensor([number[label] for label in found]), read)
    return Source(tables["train"], tables["test"], tuple(names or map(str, distinct)), key)


def _class_names(dataset: datasets.Dataset, where: str) -> list[str]:
    """Return the classes that the label column declares, empty where it does not."""
    return names_of(dataset.features[columns_of(dataset.column_names, where)[1]])


def names_of(feature: object) -> list[str]:
    """Return the classes that a column's type declares, empty where it declares none."""
    return [composed(name) for name in feature.names] if isinstance(feature, datasets.ClassLabel) else []


def _distinct(labels: dict[str, list[int | str]], where: str) -> Sequence[int | str]:
    """Return the labels of the training images, sorted: all numbers or all texts, and all that the test images have.

    Texts that are numbers are sorted as such. Without training images they are those of the test images, and all numbers
    below the largest: what a network of other origin means by its outputs.
    """
    distinct = {*labels.get("train", labels["test"])}
    if len({type(label) for found in labels.values() for label in found}) > 1:
        raise BadInput(f"{where} has numbers as labels in one split and names in the other: write them alike.")
    for split, found in labels.items():
        for label, count in Counter(found).items():
            if (isinstance(label, str) and not label.strip()) or (isinstance(label, int) and label < 0):
                raise BadInput(
                    f"{where}, {split} has the label {label!r} in {count} rows, which names no class: remove them."
                )
            if label not in distinct:
                raise BadInput(
                    f"{where}, {split} has the label {label!r} in {count} rows, and no training image has it: correct or "
                    "remove them."
                )
    ordered = sorted(distinct, key=int if all(map(_is_count, distinct)) else str)
    largest = ordered[-1]
    if "train" in labels or isinstance(largest, str):
        return ordered
    if largest >= _MOST_CLASSES:
        raise BadInput(f"{where} has the label {largest}, and classes are counted from 0: number them so.")
    return range(largest + 1)


def _is_count(label: int | str) -> bool:
    """Return whether a label is a whole number, or its text, such as 7 or 07."""
    return isinstance(label, int) or (label.isascii() and label.isdecimal())


def _labels(dataset: datasets.Dataset, where: str) -> list[int | str]:
    column = columns_of(dataset.column_names, where)[1]
    labels: list[int | str] = dataset.select_columns(column).with_format("arrow")[:][column].to_pylist()
    for row, label in enumerate(labels):
        if not isinstance(label, int | str):
            raise BadInput(f"{where}, row {row} has the label {label}: give every image a whole number or a name.")
    return [composed(label) if isinstance(label, str) else label for label in labels]


def _reader(dataset: datasets.Dataset, where: str, folder: Path) -> Reader:
    """Return rows of the image column as encoded images; a data set that lies on disk is read as it is asked for."""
    column = columns_of(dataset.column_names, where)[0]
    stored_as = dataset.data.schema.field(column).type
    if pa.types.is_list(stored_as) or pa.types.is_large_list(stored_as) or pa.types.is_fixed_size_list(stored_as):
        raise BadInput(
            f"{where}: the column {column} holds lists of numbers ({stored_as}): write encoded images, such as the bytes of "
            "PNG files, or give the pixels to sparring.data.Images."
        )
    try:
        images = dataset.select_columns(column).cast_column(column, datasets.Image(decode=False))
    except (TypeError, pa.ArrowException) as error:
        raise BadInput(f"{where}: the column {column} does not hold images ({error}).") from error
    stored = images.with_format("arrow")

    def read(rows: list[int]) -> list[Encoded]:
        return [
            _encoded(value, f"{where}, row {row}", folder)
            for row, value in zip(rows, stored[rows][column].to_pylist(), strict=True)
        ]

    return read


def _encoded(value: dict[str, bytes | str | None] | None, where: str, folder: Path) -> Encoded:
    content, path = (value["bytes"], value["path"]) if value is not None else (None, None)
    if isinstance(content, bytes):
        return Encoded(f"{where} ({path})" if isinstance(path, str) else where, content)
    if isinstance(path, str):
        return Encoded(str(folder / path), folder / path)
    return Encoded(where, None)
