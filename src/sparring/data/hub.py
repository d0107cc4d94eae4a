"""Tables of images through Hugging Face `datasets`: parquet files on this machine, and data sets of the hub.

Importing `datasets` takes more than a second, so this module is imported where it is needed. Local files are read
without `datasets`' own loader: nothing is copied and nobody is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from datasets.exceptions import DatasetsError
from datasets.table import InMemoryTable

from sparring.data.cache import digest_files
from sparring.data.decode import Encoded, Reader
from sparring.data.tables import Source, Table
from sparring.errors import BadInput
from sparring.terminal import errors_alone

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label")


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
    return _source(splits["train"], splits[test_name], repository, key=f"{repository} {builder.hash}")


def parquet(folder: Path, test_names: tuple[str, ...], *, needs_train: bool = True) -> Source:
    """Return the Parquet files in a folder: train.parquet or train*.parquet, and the same for the first of `test_names`.

    Without `needs_train` there may be none to train on. Raises BadInput where one of them is missing or cannot be read, or
    has no columns of images and labels.
    """
    test_files = _files(folder, test_names)
    if not needs_train and not any(folder.glob("train*.parquet")):
        test = _read(test_files)
        whole = _source(test, test, str(folder), key=digest_files(test_files))
        return replace(whole, train=Table(whole.train.labels[:0], whole.train.read))
    train_files = _files(folder, ("train",))
    train, test = _read(train_files), _read(test_files)
    return _source(train, test, str(folder), key=digest_files(train_files) + digest_files(test_files))


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def _files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the parquet files of the split with the first of `names` for which there are any."""
    for name in names:
        whole = folder / f"{name}.parquet"
        files = [whole] if whole.is_file() else sorted(folder.glob(f"{name}*.parquet"))
        if files:
            return files
    raise BadInput(f"{folder} has parquet files, but no {names[0]} split: add {names[0]}.parquet.")


def _read(files: list[Path]) -> datasets.Dataset:
    """Return the image and label columns of parquet files, in memory, with the features that their schema declares."""
    parts = []
    declared: list[list[str]] = []
    for file in files:
        try:
            with pq.ParquetFile(file) as content:
                columns = _columns(content.schema_arrow.names, str(file))
                parts.append(content.read(columns=list(columns)))
                feature = datasets.Features.from_arrow_schema(content.schema_arrow)[columns[1]]
                declared.append(list(feature.names) if isinstance(feature, datasets.ClassLabel) else [])
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{file} cannot be read as parquet ({error}): replace it.") from error
    for file, names in zip(files, declared, strict=True):
        if names != declared[0]:
            raise BadInput(
                f"{file} declares other classes, or another order of them, than {files[0]}: write them alike."
            )
    try:
        table = pa.concat_tables(parts, promote_options="permissive")  # such as labels of 32 bits and of 64
    except pa.ArrowException as error:
        raise BadInput(f"{files[0]} and {files[-1]} do not have the same columns: write them alike.") from error
    return datasets.Dataset(InMemoryTable(table))


def _columns(names: list[str], where: str) -> tuple[str, str]:
    """Return the names of the image and of the label column."""
    image = next((name for name in _IMAGE_COLUMNS if name in names), None)
    label = next((name for name in _LABEL_COLUMNS if name in names), None)
    if image is None or label is None:
        missing = " or ".join(_IMAGE_COLUMNS if image is None else _LABEL_COLUMNS)
        raise BadInput(f"{where} has the columns {', '.join(names)}: rename one to {missing}.")
    return image, label


def _source(train: datasets.Dataset, test: datasets.Dataset, where: str, key: str) -> Source:
    declared, again = _class_names(train, where), _class_names(test, where)
    if again and again != declared:
        raise BadInput(f"{where} declares other classes, or another order of them, for test than for train.")
    labels = _labels(train, f"{where}, train"), _labels(test, f"{where}, test")
    for found, split in zip(labels, ("train", "test"), strict=True):
        if not found:
            raise BadInput(f"{where}, {split} has no rows: give some images.")
    distinct = range(len(declared)) if declared else _distinct(*labels, where)
    number = {label: position for position, label in enumerate(distinct)}
    tables = []
    for dataset, found, split in ((train, labels[0], f"{where}, train"), (test, labels[1], f"{where}, test")):
        for row, label in enumerate(found):
            if label not in number:
                raise BadInput(f"{split}, row {row} has the label {label}, which is none of the {len(number)} classes.")
        tables.append(Table(torch.tensor([number[label] for label in found]), _reader(dataset, split)))
    return Source(tables[0], tables[1], tuple(declared or map(str, distinct)), key)


def _class_names(dataset: datasets.Dataset, where: str) -> list[str]:
    """Return the classes that the label column declares, empty where it does not."""
    feature = dataset.features[_columns(dataset.column_names, where)[1]]
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else []


def _distinct(train: list[int | str], test: list[int | str], where: str) -> list[int | str]:
    """Return the labels of the training images, sorted: all numbers or all texts, and all that the test images have."""
    distinct = {*train}
    if len({type(label) for label in (*distinct, *test)}) > 1:
        raise BadInput(f"{where} has numbers as labels in one split and names in the other: write them alike.")
    for split, labels in (("train", train), ("test", test)):
        for label, count in Counter(labels).items():
            if (isinstance(label, str) and not label.strip()) or (isinstance(label, int) and label < 0):
                raise BadInput(
                    f"{where}, {split} has the label {label!r} in {count} rows, which names no class: remove them."
                )
            if label not in distinct:
                raise BadInput(
                    f"{where}, {split} has the label {label!r} in {count} rows, and no training image has it: correct or "
                    "remove them."
                )
    return sorted(distinct)


def _labels(dataset: datasets.Dataset, where: str) -> list[int | str]:
    column = _columns(dataset.column_names, where)[1]
    labels: list[int | str] = dataset.select_columns(column).with_format("arrow")[:][column].to_pylist()
    for row, label in enumerate(labels):
        if not isinstance(label, int | str):
            raise BadInput(f"{where}, row {row} has the label {label}: give every image a number or a name.")
    return labels


def _reader(dataset: datasets.Dataset, where: str) -> Reader:
    """Return rows of the image column as encoded images; a data set that lies on disk is read as it is asked for."""
    column = _columns(dataset.column_names, where)[0]
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
            _encoded(value, f"{where}, row {row}")
            for row, value in zip(rows, stored[rows][column].to_pylist(), strict=True)
        ]

    return read


def _encoded(value: dict[str, bytes | str | None] | None, where: str) -> Encoded:
    content, path = (value["bytes"], value["path"]) if value is not None else (None, None)
    if isinstance(content, bytes):
        return Encoded(f"{where} ({path})" if isinstance(path, str) else where, content)
    if isinstance(path, str):
        return Encoded(path, Path(path))
    return Encoded(where, None)
