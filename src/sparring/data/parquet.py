"""Parquet files on this machine: which of them are a split, read in the types of `datasets`.

They are read without `datasets`' own loader: nothing is copied and nobody is called. Importing `datasets` takes more than a
second, so this module is imported where it is needed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from datasets.table import InMemoryTable

from sparring.data.cache import digest_files
from sparring.data.hub import columns_of, names_of, source_of
from sparring.data.tables import Source
from sparring.errors import BadInput, some


def parquet(
    folder: Path, test_names: tuple[str, ...], *, needs_train: bool = True, known: Sequence[str] = ()
) -> Source:
    """Return the Parquet files in a folder: those of the split train, and of the first of `test_names` that there is.

    A split is one file, called train.parquet or by its name and a number, or several that are numbered as its parts, such as
    train-00000-of-00002.parquet. Without `needs_train` there may be none to train on. Raises BadInput where one of these
    splits is missing, is not whole or cannot be read, or has no columns of images and labels.
    """
    files = sorted(folder.glob("*.parquet"))
    splits = {name: _of_split(name, files) for name in ("train", *test_names)}
    test_name = next((name for name in test_names if splits[name]), None)
    for name, needed in ((test_name or test_names[0], True), ("train", needs_train)):
        if needed and not splits[name]:
            raise BadInput(
                f"{folder} has parquet files ({_named(files)}), but no {name} split: call its file {name}.parquet, or its "
                f"files {name}-00000-of-00002.parquet and so on."
            )
    assert test_name is not None
    test = _read(splits[test_name])
    train = _read(splits["train"]) if splits["train"] else None
    used = splits["train"] + splits[test_name]
    unused = [file for file in files if file not in used]
    notes = [_made_of(name, splits[name]) for name in splits if len(splits[name]) > 1 or _numbered(name, splits[name])]
    if unused:
        notes.append(f"Not used: {_named(unused)}, beside {_named(used)}.")
    named = [_image_files(table, folder) for table in (train, test) if table is not None]
    key = digest_files([*used, *itertools.chain(*named)])
    return replace(source_of(train, test, str(folder), key, folder, known), notes=tuple(notes))


def _of_split(name: str, files: list[Path]) -> list[Path]:
    """Return those of the files that make up a split; raises BadInput where it is there twice, or not whole.

    Several do if they are numbered as parts: NAME-00000-of-00002 and so on, with further letters behind or without, or
    NAME-0, NAME-1 and so on, from 0 or 1. Others, such as test_10 beside test_100, hold other things under one name.
    """
    found = [file for file in files if re.fullmatch(rf"{name}([-_.]?\d.*)?", file.stem, re.IGNORECASE)]
    if len(found) > 1 and (whole := next((file for file in found if file.stem.lower() == name), None)):
        other = next(file for file in found if file != whole)
        raise BadInput(f"{whole.parent} has both {whole.name} and {other.name}: leave one of them there.")
    shards = [match for file in found if (match := re.search(r"(\d+)-of-(\d+)", file.stem))]
    numbers = sorted(int(shard[1]) for shard in shards)
    for total in {int(shard[2]) for shard in shards}:
        if len(shards) != len(found) or numbers != list(range(total)):
            raise BadInput(
                f"The {name} split in {found[0].parent} is not whole, as its files are {_named(found)}: add those that are "
                "missing, and move others away."
            )
    if len(found) > 1 and not shards:
        _check_series(name, found)
    return found


def _numbered(name: str, files: list[Path]) -> bool:
    """Return whether the only file of a split has a number that is not said to be of how many."""
    return len(files) == 1 and files[0].stem.lower() != name and not re.search(r"\d-of-\d", files[0].stem)


def _made_of(name: str, files: list[Path]) -> str:
    if len(files) == 1:
        return f"The {name} split is {files[0].name} alone."
    return f"The {name} split is put together from {_named(files)}."


def _check_series(name: str, files: list[Path]) -> None:
    """Raise BadInput unless the files are called NAME and a number, and the numbers are consecutive, from 0 or 1."""
    numbers = [re.fullmatch(rf"{name}[-_.]?(\d+)", file.stem, re.IGNORECASE) for file in files]
    counted = sorted(int(number[1]) for number in numbers if number)
    if counted not in (list(range(len(files))), list(range(1, len(files) + 1))):
        raise BadInput(
            f"{files[0].parent} has {_named(files)}, which are not numbered as parts of one {name} split: leave the one to "
            f"use, or call the parts {name}-00000-of-{len(files):05} and so on."
        )


def _image_files(table: datasets.Dataset, where: Path) -> list[Path]:
    """Return the files that the image column names instead of holding their content; they lie in the folder `where`."""
    column = table.data.column(columns_of(table.column_names, str(where))[0])
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return [where / path for path in column.to_pylist() if path is not None]
    if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return []
    paths = pc.struct_field(column, "path")
    if column.type.get_field_index("bytes") >= 0:
        paths = paths.filter(pc.is_null(pc.struct_field(column, "bytes")))
    return [where / path for path in paths.to_pylist() if isinstance(path, str)]


def _named(files: list[Path]) -> str:
    return some([file.name for file in files])


def _read(files: list[Path]) -> datasets.Dataset:
    """Return the image and label columns of parquet files, in memory, with the features that their schema declares."""
    parts = []
    declared: list[list[str]] = []
    for file in files:
        try:
            with pq.ParquetFile(file) as content:
                columns = columns_of(content.schema_arrow.names, str(file))
                parts.append(content.read(columns=list(columns)))
                feature = datasets.Features.from_arrow_schema(content.schema_arrow)[columns[1]]
                declared.append(names_of(feature))
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
