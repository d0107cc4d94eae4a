"""Folders of images as people have them: names of splits, packaging, links, hidden files, names in two encodings."""

from __future__ import annotations

import json
import unicodedata
import zlib
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sparring import cli
from sparring.data import Data, load
from sparring.errors import BadInput


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))


def picture(file: Path, *, seed: int = 0, mode: str = "L", size: tuple[int, int] = (6, 6), **options) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, *{"L": (), "RGB": (3,), "RGBA": (4,)}[mode])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(file, **options)


def fill(folder: Path, *classes: str, count: int = 5, suffix: str = ".png") -> None:
    for name in classes:
        for index in range(count):
            file = folder / name / f"{index}{suffix}"
            picture(file, seed=zlib.crc32("/".join(file.parts[-3:]).encode()))


def found(folder: Path, **options):
    return load(Data("mine", str(folder), validation=0, **options))


# Parts of a data set ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"), [("Training", "Testing"), ("Train", "Test"), ("TRAIN", "val"), ("training", "Validation")]
)
def test_the_usual_names_of_splits_count_in_any_case(train: str, test: str, tmp_path: Path) -> None:
    fill(tmp_path / "set" / train, "cat", "dog")
    fill(tmp_path / "set" / test, "cat", "dog", count=2)
    splits = found(tmp_path / "set")
    assert splits.classes == ("cat", "dog")
    assert (len(splits.train), len(splits.test)) == (10, 4)


def test_train_may_be_a_class(tmp_path: Path) -> None:
    fill(tmp_path / "set", "bus", "car", "train")
    assert found(tmp_path / "set").classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("train/a.png", "test/b.png"), "the folders 'test', 'train', which look like parts of a data set"),
        (("dev/cat/a.png", "dev/dog/a.png", "holdout/cat/a.png"), "'dev', 'holdout', which look like parts"),
        (("test/cat/a.png", "more/a.png"), "'more', 'test', which look like parts"),
        (("v1/train/cat/a.png", "v1/train/dog/a.png", "v2/cat/a.png"), "v1 has train in it, .* give .*v1 itself"),
        (("cat/train/a.png", "cat/test/b.png", "dog/train/a.png"), "cat has test and train in it"),
        (("archive/cat/a.png", "archive/dog/a.png", "__MACOSX/cat/a.png"), "classes seem to be in it: give .*archive"),
        (("train/cat/a.png", "train/dog/a.png"), "has a folder train, but no test images"),
        (("training_set/cat/a.png", "training_set/dog/a.png", "test_set/cat/b.png"), "look like parts of a data set"),
        (("train2017/a.png", "val2017/b.png"), "look like parts of a data set"),
        (("fold1/cat/a.png", "fold1/dog/a.png", "fold2/cat/b.png", "fold2/dog/b.png"), "look like parts of a data set"),
    ],
)
def test_what_looks_like_parts_or_packaging_is_no_class(files: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for number, file in enumerate(files):
        picture(tmp_path / "set" / file, seed=number)
    with pytest.raises(BadInput, match=said):
        found(tmp_path / "set")


# Files as they are --------------------------------------------------------------------------------------------------------


def test_hidden_folders_and_packaging_are_left_out_at_every_level(tmp_path: Path) -> None:
    fill(tmp_path / "set", "cat", "dog")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        picture(tmp_path / "set" / "cat" / name / "0-checkpoint.png")
    assert len(found(tmp_path / "set").train) + len(found(tmp_path / "set").test) == 10


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "store", "one", "two")
    fill(tmp_path / "set", "dog")
    (tmp_path / "set" / "cat").mkdir()
    (tmp_path / "set" / "cat" / "one").symlink_to(tmp_path / "store" / "one")
    (tmp_path / "set" / "bird").symlink_to(tmp_path / "store" / "two")
    (tmp_path / "set" / "dog" / "5.png").symlink_to(tmp_path / "elsewhere.png")
    picture(tmp_path / "elsewhere.png")
    splits = found(tmp_path / "set")
    assert splits.classes == ("bird", "cat", "dog")
    assert len(splits.train) + len(splits.test) == 16


def test_what_links_repeat_within_a_class_counts_once(tmp_path: Path) -> None:
    fill(tmp_path / "set", "cat", "dog")
    picture(tmp_path / "set" / "cat" / "more" / "5.png")
    (tmp_path / "set" / "cat" / "again").symlink_to(tmp_path / "set" / "cat" / "more")
    (tmp_path / "set" / "cat" / "twice.png").symlink_to("0.png")
    splits = found(tmp_path / "set")
    assert len(splits.train) + len(splits.test) == 11


@pytest.mark.parametrize("place", ["cat/up", "cat/more/up", "up"])
@pytest.mark.parametrize("above", [".", "..", "cat"])
def test_links_to_a_folder_above_are_refused(place: str, above: str, tmp_path: Path) -> None:
    fill(tmp_path / "set", "cat/more", "dog/more")
    link = tmp_path / "set" / place
    link.symlink_to(tmp_path / "set" / above)
    said = (
        "are the same file" if (place, above) == ("up", "cat") else f"{place} is a link to .*, a folder that it lies in"
    )
    with pytest.raises(BadInput, match=said):
        found(tmp_path / "set")


def test_links_that_lead_to_each_other_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "set", "cat/a", "cat/b", "dog")
    (tmp_path / "set" / "cat" / "a" / "x").symlink_to(tmp_path / "set" / "cat" / "b")
    (tmp_path / "set" / "cat" / "b" / "y").symlink_to(tmp_path / "set" / "cat" / "a")
    with pytest.raises(BadInput, match="a folder that it lies in: remove the link"):
        found(tmp_path / "set")


@pytest.mark.parametrize(
    ("link", "to", "pair"),
    [
        ("train/cat/d", "train/dog", "cat/d/0.png and .*dog/0.png"),
        ("train/kitty", "train/cat", "cat/0.png and .*kitty/0.png"),
        ("train/cat/9.png", "train/dog/3.png", "cat/9.png and .*dog/3.png"),
        ("train/cat/t", "test/cat", "train/cat/t/0.png and .*test/cat/0.png"),
        ("test/cat/9.png", "train/cat/1.png", "train/cat/1.png and .*test/cat/9.png"),
        ("train/dog/s", "train/cat/sub", "cat/sub/0.png and .*dog/s/0.png"),
    ],
)
def test_links_that_give_an_image_two_labels_or_splits_are_refused(
    link: str, to: str, pair: str, tmp_path: Path
) -> None:
    fill(tmp_path / "set" / "train", "cat", "cat/sub", "dog")
    fill(tmp_path / "set" / "test", "cat", "dog", count=2)
    (tmp_path / "set" / link).symlink_to(tmp_path / "set" / to)
    with pytest.raises(BadInput, match=f"{pair} are the same file, because of a link"):
        found(tmp_path / "set")


def test_links_that_lead_nowhere_are_damaged_images(tmp_path: Path) -> None:
    fill(tmp_path / "set", "cat", "dog")
    (tmp_path / "set" / "cat" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "set" / "dog" / "self.png").symlink_to(tmp_path / "set" / "dog" / "self.png")
    with pytest.raises(BadInput, match=r"2 images cannot be decoded \(.*(lost|self).png, .*(lost|self).png\)"):
        found(tmp_path / "set")


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "set", "cat", "dog")
    whole = Path.iterdir

    def forbidden(folder: Path):
        if folder.name == "dog":
            raise PermissionError(13, "Permission denied")
        return whole(folder)

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(BadInput, match=r"dog cannot be read \(Permission denied\): change its permissions"):
        found(tmp_path / "set")


def test_files_that_are_no_images_are_counted(tmp_path: Path) -> None:
    fill(tmp_path / "set", "cat", "dog")
    for name in ("a.heic", "b.npy", ".hidden.heic"):
        (tmp_path / "set" / "cat" / name).write_bytes(b"")
    assert found(tmp_path / "set").notes == (
        f"2 files are no images that can be read, such as {tmp_path / 'set' / 'cat' / 'a.heic'}.",
    )


def test_classes_that_differ_in_case_only_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "set", "Cat", "cat", "dog")
    assert found(tmp_path / "set").notes == (
        "Different classes are called 'Cat' and 'cat': if that is one class, put its images together.",
    )


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (("train", "Train", "test"), "has Train and train: put their images together"),
        (("Training", "train", "test"), "has train and Training: put"),
        (("train", "test", "Testing"), "has test and Testing"),
        (("train", "valid", "val"), "has valid and val"),
    ],
)
def test_two_folders_of_one_part_are_refused(folders: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for folder in folders:
        fill(tmp_path / "set" / folder, "cat", "dog")
    with pytest.raises(BadInput, match=said):
        found(tmp_path / "set")


def test_validation_images_beside_test_images_are_said_to_be_unused(tmp_path: Path) -> None:
    for folder in ("train", "val", "test"):
        fill(tmp_path / "set" / folder, "cat", "dog")
    assert found(tmp_path / "set").notes == (
        f"Not used: {tmp_path / 'set' / 'val'}, beside {tmp_path / 'set' / 'test'}.",
    )


def test_an_image_beside_the_folders_of_classes_is_named(tmp_path: Path) -> None:
    for folder in ("train", "test"):
        fill(tmp_path / "set" / folder, "cat", "dog")
    picture(tmp_path / "set" / "train" / "stray.png")
    with pytest.raises(
        BadInput, match=r"train/stray.png lies beside the folders of the classes: put it into one of them"
    ):
        found(tmp_path / "set")


@pytest.mark.parametrize("suffix", [".jfif", ".JPG", ".jpe"])
def test_photographs_under_other_endings_are_read(suffix: str, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for index in range(5):
            picture(tmp_path / "set" / name / f"{index}{suffix}", seed=index, format="JPEG")
    assert len(found(tmp_path / "set").train) == 8


def test_names_in_another_encoding_of_the_same_letters_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Bär") for form in ("NFC", "NFD"))
    fill(tmp_path / "set" / "train", composed, "cat")
    fill(tmp_path / "set" / "test", decomposed, "cat", count=2)
    assert found(tmp_path / "set").classes == (composed, "cat")
    fill(tmp_path / "set" / "train", decomposed)
    with pytest.raises(BadInput, match="two folders that both read 'Bär'"):
        found(tmp_path / "set")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_are_turned_upright_as_their_orientation_says(orientation: int, tmp_path: Path) -> None:
    fill(tmp_path / "set", "cat", "dog", count=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("cat", "dog"):
        picture(tmp_path / "set" / name / "0.png", exif=exif)
    splits = found(tmp_path / "set")
    stored = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 6), dtype=np.uint8))
    quarters = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    assert torch.equal(splits.train.pixels[0, 0], torch.rot90(stored, quarters))


def test_all_damaged_images_are_named_or_counted(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "train", "cat", "dog", count=8)
    fill(tmp_path / "set" / "test", "cat", "dog", count=2)
    for index in (0, 7):
        (tmp_path / "set" / "train" / "cat" / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"2 images cannot be decoded \(.*cat/0.png, .*cat/7.png\): replace them"):
        found(tmp_path / "set")
    for index in range(8):
        (tmp_path / "set" / "train" / "cat" / f"{index}.png").write_bytes(b"no image")
    (tmp_path / "set" / "test" / "dog" / "1.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"9 images cannot be decoded \((.*png, ){5}\.\.\.\)"):
        found(tmp_path / "set")


# What is said of the data -------------------------------------------------------------------------------------------------


def test_classes_without_images_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "train", "bird", "cat", "dog")
    fill(tmp_path / "set" / "test", "cat", "dog", count=2)
    (tmp_path / "set" / "train" / "fish").mkdir()
    assert found(tmp_path / "set").notes == (
        f"The folder {tmp_path / 'set' / 'train' / 'fish'} has no images that can be read: it is no class.",
        "No test images of 1 of the 3 classes: bird.",
    )


def test_one_coloured_image_in_a_gray_set_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "train", "cat", "dog", count=20)
    fill(tmp_path / "set" / "test", "cat", "dog", count=2)
    assert found(tmp_path / "set").shape == (1, 6, 6)
    picture(tmp_path / "set" / "train" / "dog" / "7.png", mode="RGBA")
    splits = found(tmp_path / "set")
    assert splits.shape == (3, 6, 6)
    (note,) = splits.notes
    assert note.startswith("1 of 44 images have colours, such as ")
    assert "dog/7.png, so all are given three channels" in note


def test_a_run_says_what_its_data_are_and_keeps_it(tmp_path: Path, capsys) -> None:
    fill(tmp_path / "set" / "train", "bird", "cat", count=20)
    fill(tmp_path / "set" / "test", "cat", count=2)
    picture(tmp_path / "set" / "test" / "bird" / "0.png")
    words = [
        "--data.name",
        "mine [x]",
        "--data.path",
        str(tmp_path / "set"),
        "--data.validation",
        "4",
        "--data.size",
        "8",
    ]
    quick = ["--optimisation.epochs", "1", "--model.width", "4", "--optimisation.batch_size", "16"]
    assert cli.main(["train", "digits/fgsm-at", "--run", str(tmp_path / "run"), *words, *quick]) == 0
    said = capsys.readouterr().err
    assert "mine [x]: 36 training images, 4 held out, 3 test images, 2 classes, 1 x 8 x 8 pixels." in said
    kept = json.loads((tmp_path / "run" / "data.json").read_text())
    assert kept["images"]["train"] == {"bird": 18, "cat": 18}
    assert kept["images"]["validation"] == {"bird": 2, "cat": 2}
    assert kept["images"]["test"] == {"bird": 1, "cat": 2}
    assert (kept["name"], kept["shape"], kept["notes"]) == ("mine [x]", [1, 8, 8], [])


# Test images alone, and parquet -------------------------------------------------------------------------------------------


def test_test_images_alone_will_do_for_an_evaluation(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "val", "cat", "dog", count=3)
    splits = load(Data("mine", str(tmp_path / "set")), needs_train=False)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (0, 0, 6)
    assert splits.classes == ("cat", "dog")
    with pytest.raises(BadInput, match="only one sub-folder|which look like parts"):
        found(tmp_path / "set")


def table(*labels: int) -> pa.Table:
    images = [{"bytes": png(seed), "path": None} for seed in range(len(labels))]
    return pa.table({"image": images, "label": list(labels)})


def png(seed: int) -> bytes:
    stream = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_a_parquet_file_of_test_images_alone_will_do_for_an_evaluation(tmp_path: Path) -> None:
    pq.write_table(table(0, 1, 1), tmp_path / "val.parquet")
    splits = load(Data("mine", str(tmp_path)), needs_train=False)
    assert (len(splits.train), len(splits.test), splits.classes) == (0, 3, ("0", "1"))
    with pytest.raises(BadInput, match=r"no train split: call its file train\.parquet"):
        found(tmp_path)


def test_the_layout_of_the_hub_s_repositories_is_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(table(0, 1, 1), tmp_path / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table(1), tmp_path / "data" / "test-00000-of-00001.parquet")
    splits = found(tmp_path)
    assert (len(splits.train), len(splits.test)) == (3, 1)


def test_lists_of_numbers_are_no_encoded_images(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": [[0, 255], [3, 4]], "label": [0, 1]}), tmp_path / f"{split}.parquet")
    with pytest.raises(
        BadInput, match=r"the column image holds lists of numbers \(list<.*int64>\): write encoded images"
    ):
        found(tmp_path)


def test_shards_that_declare_their_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    for shard, names in (("0", ["cat", "dog"]), ("1", ["dog", "cat"])):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        rows = {"image": [{"bytes": png(seed), "path": None} for seed in range(2)], "label": [0, 1]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"train-{shard}.parquet")
    pq.write_table(table(0, 1), tmp_path / "test.parquet")
    with pytest.raises(BadInput, match=r"train-1\.parquet declares other classes, or another order of them"):
        found(tmp_path)
