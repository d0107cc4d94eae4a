import io
import shutil
import socket
import struct
import subprocess
import sys
import zlib

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from sparring.data import Augment, Data, load, sources
from sparring.data.splits import image_digests
from sparring.errors import BadInput


def pictures(count, shape=(6, 5, 3), seed=0):
    """Random uint8 images, (count, H, W, 3) or (count, H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def png(picture):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(file, images, labels, columns=("image", "label"), features=None):
    stored = [{"bytes": png(image) if not isinstance(image, bytes) else image, "path": None} for image in images]
    table = pa.table(dict(zip(columns, (stored, labels), strict=True)))
    if features is not None:
        table = table.replace_schema_metadata(features.arrow_schema.metadata)
    file.parent.mkdir(exist_ok=True)
    pq.write_table(table, file)


def write_images(folder, classes, count, shape=(6, 5, 3), seed=0):
    images = pictures(count * len(classes), shape, seed)
    for number, image in enumerate(images):
        file = folder / classes[number // count] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return images


def channels_first(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def custom(path, **options):
    return load(Data("my-data", str(path), **({"validation": 0} | options)))


@pytest.fixture
def pack(tmp_path):
    """Forty training and ten test images of four classes as parquet files without any metadata."""
    train, test = pictures(40, seed=1), pictures(10, seed=2)
    write_parquet(tmp_path / "pack" / "train.parquet", train, [row % 4 for row in range(40)])
    write_parquet(tmp_path / "pack" / "test.parquet", test, [row % 4 for row in range(10)])
    return tmp_path / "pack", train, test


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*address):
        raise AssertionError(f"somebody called {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# Digits ---------------------------------------------------------------------------------------------------------------


def test_digits_are_divided_once_and_for_all(cache_folder, no_network):
    before = sorted(cache_folder.iterdir())
    data = load(Data())
    assert (len(data.train), len(data.validation), len(data.test)) == (1337, 100, 360)
    assert data.classes == tuple("0123456789")
    bunch = load_digits()
    levels = np.rint(bunch.images.reshape(1797, 64) * 255 / 16).astype(np.uint8)
    expected = sorted(zip(map(bytes, levels), bunch.target, strict=True))
    parts = (data.train, data.validation, data.test)
    pixels, labels = torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts])
    assert sorted(zip(map(bytes, pixels.flatten(1).numpy()), labels.tolist(), strict=True)) == expected
    assert sorted(cache_folder.iterdir()) == before


def test_digits_are_stratified():
    data = load(Data())
    whole = np.bincount(load_digits().target)
    for part in (data.train, data.validation, data.test):
        counts = np.bincount(part.labels.numpy(), minlength=10)
        assert np.abs(counts - whole * len(part) / 1797).max() < 2


def test_the_same_configuration_gives_the_same_images():
    one, two, other = load(Data(limit=300)), load(Data(limit=300)), load(Data(limit=300, seed=1))
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert torch.equal(one.train.pixels, two.train.pixels)
    assert torch.equal(one.train.index, torch.arange(len(one.train)))
    assert (len(one.train), len(one.validation), len(one.test)) == (270, 30, 360)


def test_settings_of_other_types_are_refused_and_a_path_may_be_given_as_one(pack):
    """In a process of its own, without the types that these tests check."""
    folder, _, _ = pack
    code = f"""
from pathlib import Path
from sparring.data import Data, load
from sparring.errors import BadInput
for setting in ({{"limit": 2.5}}, {{"name": 5}}, {{"augment": None}}, {{"path": 3}}):
    try:
        Data(**setting)
    except BadInput as error:
        print(error)
print(len(load(Data("mine", Path({str(folder)!r}))).train))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "Data's limit must be a whole number, not 2.5.",
        "Data's name must be a text, not 5.",
        "Data's augment must be of type Augment, not None.",
        "Data's path must be a text, not 3.",
        "36",
    ]


def test_limits_draw_from_the_whole_table():
    whole, part = load(Data(validation=0)), load(Data(limit=200, test_limit=50, validation=0))
    for few, all_ in ((part.train, whole.train), (part.test, whole.test)):
        rows = [torch.where((all_.pixels == image).flatten(1).all(1))[0][0].item() for image in few.pixels]
        assert rows == sorted(rows)  # in the order of the table
        assert rows[-1] > 0.9 * len(all_)
    assert (len(part.train), len(part.test)) == (200, 50)


@pytest.mark.parametrize(
    ("available", "count"), [(50000, 1000), (1_281_167, 1000), (20000, 400), (1437, 100), (500, 50), (9, 0)]
)
def test_default_validation(available, count):
    assert sources._validation_count(available, Data()) == count


def test_moments_are_those_of_the_training_images():
    data = load(Data())
    pixels = data.train.pixels.double() / 255
    assert data.mean == pytest.approx([pixels.mean().item()], abs=1e-12)
    assert data.std == pytest.approx([pixels.std(correction=0).item()], abs=1e-12)


# Parquet --------------------------------------------------------------------------------------------------------------


def test_parquet_images_come_out_as_they_went_in(pack, no_network, capfd):
    folder, train, test = pack
    data = custom(folder)
    assert torch.equal(data.train.pixels, channels_first(train))
    assert torch.equal(data.test.pixels, channels_first(test))
    assert torch.equal(data.train.labels, torch.arange(40) % 4)
    assert data.classes == ("0", "1", "2", "3")
    assert capfd.readouterr() == ("", "")  # no progress bars


def test_validation_is_held_out_of_training(pack):
    folder, train, _ = pack
    data = custom(folder, validation=8)
    assert torch.bincount(data.validation.labels).tolist() == [2, 2, 2, 2]
    together = torch.cat([data.train.pixels, data.validation.pixels])
    assert sorted(map(bytes, together.numpy())) == sorted(map(bytes, channels_first(train).numpy()))


def test_decoded_images_are_cached(pack, monkeypatch):
    folder, _, _ = pack
    first = custom(folder)

    def refuse(*arguments):
        raise AssertionError("decoded again")

    monkeypatch.setattr(sources, "decode", refuse)
    assert custom(folder).fingerprint == first.fingerprint
    with pytest.raises(AssertionError, match="decoded again"):
        custom(folder, limit=39)
    write_parquet(folder / "test.parquet", pictures(10, seed=3), [row % 4 for row in range(10)])
    with pytest.raises(AssertionError, match="decoded again"):
        custom(folder)


def test_the_fingerprint_notices_a_pixel_and_a_label(pack):
    folder, train, _ = pack
    labels = [row % 4 for row in range(40)]
    prints = {custom(folder).fingerprint}
    train[7, 2, 3, 1] ^= 1
    write_parquet(folder / "train.parquet", train, labels)
    prints.add(custom(folder).fingerprint)
    write_parquet(folder / "train.parquet", train, [1, *labels[1:]])
    prints.add(custom(folder).fingerprint)
    assert len(prints) == 3
    assert all(len(text) == 16 for text in prints)


def test_shards_are_joined(tmp_path):
    images = pictures(9)
    for shard in range(3):
        part = slice(3 * shard, 3 * shard + 3)
        write_parquet(tmp_path / f"train-0000{shard}-of-00003.parquet", images[part], [0, 1, 0])
    other = pictures(5, seed=1)
    write_parquet(tmp_path / "validation-0.parquet", other[:2], [0, 1])
    write_parquet(tmp_path / "validation_1.parquet", other[2:], [0, 1, 1])
    data = custom(tmp_path)
    assert torch.equal(data.train.pixels, channels_first(images))
    assert len(data.test) == 5
    assert data.notes == (
        "The train split is put together from train-00000-of-00003.parquet, train-00001-of-00003.parquet, "
        "train-00002-of-00003.parquet.",
        "The validation split is put together from validation-0.parquet, validation_1.parquet.",
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["train", "train-00000-of-00001"], r"has both train\.parquet and train-00000-of-00001\.parquet: leave one"),
        (["Train", "train"], r"has both Train\.parquet and train\.parquet"),
        (
            ["train-00000-of-00002"],
            r"The train split in .* is not whole, as its files are train-00000-of-00002\.parquet",
        ),
        (["train-00001-of-00002", "train-00000-of-00003"], "is not whole"),
        (["train-00000-of-00001-ab", "train-00000-of-00001-cd"], "is not whole"),
        (["train-00000-of-00001", "train_1"], "is not whole"),
        (
            ["train_10", "train_100"],
            r"has train_10\.parquet, train_100\.parquet, which are not numbered as parts of one train split: leave the one "
            r"to use, or call the parts train-00000-of-00002",
        ),
        (["train_8px", "train_32px"], "not numbered as parts of one train split"),
        (["train-2023", "train-2024"], "not numbered as parts"),
        (["train-0", "train-2"], "not numbered as parts"),
        (
            ["trainset"],
            r"has parquet files \(test\.parquet, trainset\.parquet\), but no train split: call its file train",
        ),
    ],
)
def test_splits_that_are_there_twice_or_in_part_are_refused(files, said, tmp_path):
    for name in ("test", *files):
        write_parquet(tmp_path / f"{name}.parquet", pictures(2), [0, 1])
    with pytest.raises(BadInput, match=said):
        custom(tmp_path)


def test_a_single_file_with_more_in_its_name_is_the_split(tmp_path):
    for seed, name in enumerate(("train_8px", "test-2")):
        write_parquet(tmp_path / f"{name}.parquet", pictures(2, seed=seed), [0, 1])
    assert custom(tmp_path).notes == (
        "The train split is train_8px.parquet alone.",
        "The test split is test-2.parquet alone.",
    )


@pytest.mark.parametrize("column", ["struct", "path alone", "text"])
def test_images_that_parquet_names_are_decoded_anew_when_they_change(column, tmp_path):
    """The cache of pixels knows them by what is in the files, not by the table that names them."""
    files = [tmp_path / f"{number}.png" for number in range(2)]
    first, second = pictures(2, seed=5)
    for file in files:
        Image.fromarray(first).save(file)
    stored = {
        "struct": [{"bytes": None, "path": str(file)} for file in files],
        "path alone": [{"path": str(file)} for file in files],
        "text": [str(file) for file in files],
    }[column]
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": stored, "label": [0, 1]}), tmp_path / f"{split}.parquet")
    before = custom(tmp_path)
    assert torch.equal(before.train.pixels, channels_first(np.stack([first, first])))
    Image.fromarray(second).save(files[1])
    assert torch.equal(custom(tmp_path).train.pixels, channels_first(np.stack([first, second])))


def test_files_beside_the_splits_are_not_used_and_named(tmp_path):
    for seed, name in enumerate(("Train", "test", "train_backup", "train_unlabeled", "validation")):
        write_parquet(tmp_path / f"{name}.parquet", pictures(2, seed=seed), [0, 1])
    data = custom(tmp_path)
    assert (len(data.train), len(data.test)) == (2, 2)
    assert data.notes == (
        "Not used: train_backup.parquet, train_unlabeled.parquet, validation.parquet, beside Train.parquet, test.parquet.",
    )


def test_parquet_files_in_folders_of_splits_are_refused_with_the_way_out(tmp_path):
    write_parquet(tmp_path / "train" / "0000.parquet", pictures(2), [0, 1])
    with pytest.raises(BadInput, match=r"in its folders, such as .*train/0000\.parquet: move them to"):
        custom(tmp_path)


def test_labels_in_two_encodings_of_the_same_letters_are_one_class(tmp_path):
    composed, decomposed = "B\u00e4r", "Ba\u0308r"
    write_parquet(tmp_path / "train.parquet", pictures(3), [composed, "cat", decomposed])
    write_parquet(tmp_path / "test.parquet", pictures(2), [decomposed, "cat"])
    data = custom(tmp_path)
    assert data.classes == (composed, "cat")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1, 0], [0, 1])
    for split, name in (("train", composed), ("test", decomposed)):
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", name]))
        write_parquet(tmp_path / f"{split}.parquet", pictures(2), [0, 1], features=features)
    assert custom(tmp_path).classes == ("cat", composed)
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=[composed, decomposed]))
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", pictures(2), [0, 1], features=features)
    with pytest.raises(BadInput, match="declares two classes that both read 'B\u00e4r'"):
        custom(tmp_path)


def test_numbers_without_training_images_are_those_of_the_network(tmp_path):
    write_parquet(tmp_path / "val.parquet", pictures(3), [0, 3, 1])
    data = load(Data("mine", str(tmp_path)), needs_train=False)
    assert data.classes == ("0", "1", "2", "3")
    assert data.test.labels.tolist() == [0, 3, 1]
    assert data.notes == ("No test images of 1 of the 4 classes: 2.",)
    write_parquet(tmp_path / "val.parquet", pictures(2), [7_000_001, 7_000_002])
    with pytest.raises(BadInput, match="has the label 7000002, and classes are counted from 0: number them so"):
        load(Data("mine", str(tmp_path)), needs_train=False)


def test_known_sets_look_for_their_own_test_split(tmp_path):
    for name, count in (("train", 3), ("test", 4), ("valid", 5)):
        labels = [0] * count
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=200))
        write_parquet(tmp_path / f"{name}.parquet", pictures(count), labels, features=features)
    assert len(load(Data("tiny_imagenet", str(tmp_path), validation=0)).test) == 5
    assert len(custom(tmp_path).test) == 4


@pytest.mark.parametrize(
    ("train", "test", "classes", "expected"),
    [
        (["b", "a", "c"], ["c", "a"], ("a", "b", "c"), [1, 0, 2]),
        ([10, 2, 5], [2, 10], ("2", "5", "10"), [2, 0, 1]),
        (["10", "2", "5"], ["2", "10"], ("2", "5", "10"), [2, 0, 1]),
    ],
)
def test_undeclared_classes_are_the_sorted_labels(tmp_path, train, test, classes, expected):
    write_parquet(tmp_path / "train.parquet", pictures(3), train, columns=("img", "fine_label"))
    write_parquet(tmp_path / "test.parquet", pictures(2), test, columns=("img", "fine_label"))
    data = custom(tmp_path)
    assert data.classes == classes
    assert data.train.labels.tolist() == expected


def test_texts_that_are_numbers_are_those_of_the_network_where_nothing_is_to_train_on(tmp_path):
    write_parquet(tmp_path / "test.parquet", pictures(3), ["10", "02", "0"])
    data = load(Data("mine", str(tmp_path)), needs_train=False)
    assert data.classes == tuple(str(number) for number in range(11))
    assert data.test.labels.tolist() == [10, 2, 0]


@pytest.mark.parametrize("declared", ["train", "test"])
def test_names_in_one_split_mean_the_classes_that_the_other_declares(tmp_path, declared):
    names = ["cat", "dog", "ape"]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    for split in ("train", "test"):
        labels = [2, 0] if split == declared else ["ape", "cat"]
        write_parquet(
            tmp_path / f"{split}.parquet", pictures(2), labels, features=features if split == declared else None
        )
    data = custom(tmp_path)
    assert data.classes == tuple(names)
    assert data.train.labels.tolist() == data.test.labels.tolist() == [2, 0]
    other = "test" if declared == "train" else "train"
    write_parquet(tmp_path / f"{other}.parquet", pictures(2), ["cow", "cat"])
    with pytest.raises(
        BadInput, match=rf"{other}, row 0 has the label 'cow', .* none of the 3 classes \('cat', 'dog', "
    ):
        custom(tmp_path)


def test_declared_classes_are_kept_even_if_absent(tmp_path):
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog", "ape"]))
    write_parquet(tmp_path / "train.parquet", pictures(2), [2, 1], features=features)
    write_parquet(tmp_path / "test.parquet", pictures(2), [1, 1])
    data = custom(tmp_path)
    assert data.classes == ("cat", "dog", "ape")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([2, 1], [1, 1])
    other = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["dog", "cat", "ape"]))
    write_parquet(tmp_path / "test.parquet", pictures(2), [1, 1], features=other)
    with pytest.raises(BadInput, match="another order"):
        custom(tmp_path)


def test_gray_images_get_one_channel_and_mixed_ones_three(tmp_path):
    gray = pictures(4, (6, 5))
    write_parquet(tmp_path / "train.parquet", gray, [0, 1, 0, 1])
    write_parquet(tmp_path / "test.parquet", gray, [0, 1, 0, 1])
    data = custom(tmp_path)
    assert torch.equal(data.train.pixels, torch.from_numpy(gray)[:, None])
    assert len(data.mean) == 1
    write_parquet(tmp_path / "test.parquet", [gray[0], pictures(1)[0]], [0, 1])
    data = custom(tmp_path)
    assert torch.equal(data.test.pixels[0], torch.from_numpy(gray[0]).expand(3, -1, -1))
    assert data.train.pixels.shape == (4, 3, 6, 5)


def test_images_of_many_sizes_are_resized_and_centred(tmp_path):
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 8:22] = 200  # the central square and a margin
    images = [wide, np.full((8, 8, 3), 7, dtype=np.uint8)]
    for name in ("train", "test"):
        write_parquet(tmp_path / f"{name}.parquet", images, [0, 1])
    data = custom(tmp_path, size=4)
    assert data.train.pixels.shape == (2, 1, 4, 4)
    assert data.train.pixels[0].eq(200).all()
    assert data.train.pixels[1].eq(7).all()
    with pytest.raises(BadInput, match=r"train, row 0 has 10 x 30 pixels, and .*train, row 1 8 x 8: set data.size"):
        custom(tmp_path)


# Folders --------------------------------------------------------------------------------------------------------------


def test_folder_with_train_and_test(tmp_path, no_network):
    train = write_images(tmp_path / "train", ["stop", "go"], 3)
    test = write_images(tmp_path / "val", ["stop", "go"], 2, seed=1)
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "stop" / "labels.csv").write_text("no image")
    data = custom(tmp_path)
    assert data.classes == ("go", "stop")
    assert torch.equal(data.train.pixels, channels_first(train[[3, 4, 5, 0, 1, 2]]))
    assert torch.equal(data.test.pixels, channels_first(test[[2, 3, 0, 1]]))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_flat_folder_keeps_a_fifth_for_the_test(tmp_path):
    images = write_images(tmp_path, ["a", "b", "c"], 10)
    data = custom(tmp_path)
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 2]
    together = torch.cat([data.train.pixels, data.test.pixels])
    assert sorted(map(bytes, together.numpy())) == sorted(map(bytes, channels_first(images).numpy()))


def test_test_images_that_are_training_images_are_counted(tmp_path):
    write_images(tmp_path / "train", ["a", "b"], 4)
    write_images(tmp_path / "test", ["a", "b"], 3, seed=1)
    assert custom(tmp_path).notes == ()
    for name in ("000.png", "001.png"):
        shutil.copy(tmp_path / "train/a" / name, tmp_path / "test/a" / f"again-{name}")
    data = custom(tmp_path)
    assert data.notes == (
        "2 of 8 test images are training images, too, pixel for pixel: what is found on them says nothing of new images.",
    )


def test_digests_are_of_pixels_and_shape():
    bytes_ = torch.from_numpy(pictures(5)).permute(0, 3, 1, 2)
    digests = image_digests(bytes_)
    assert len(set(digests.tolist())) == 5
    assert torch.equal(image_digests(bytes_ / 255), digests)
    assert torch.equal(image_digests(bytes_.clone(memory_format=torch.channels_last)), digests)
    assert not torch.isin(image_digests(bytes_.reshape(5, 3, 5, 6)), digests).any()
    changed = bytes_.clone()
    changed[2, 1, 3, 4] ^= 1
    assert (image_digests(changed) == digests).tolist() == [True, True, False, True, True]
    data = load(Data(limit=100, validation=20))
    assert torch.isin(image_digests(data.train.pixels), data.seen()).all()
    assert torch.isin(image_digests(data.validation.pixels), data.seen()).all()
    assert not torch.isin(image_digests(data.test.pixels), data.seen()).any()
    assert load(Data(limit=100, validation=20, test_limit=3)).train_fingerprint == data.train_fingerprint
    assert load(Data(limit=101, validation=20)).train_fingerprint != data.train_fingerprint


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_beyond_the_declared_classes_is_no_class_of_the_network(label, tmp_path):
    """-1 marks images without a label; it must not count from the end."""
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "emu"]))
    write_parquet(tmp_path / "test.parquet", pictures(3), [0, 1, label], features=features)
    with pytest.raises(BadInput, match=rf"test, row 2 has the label {label}, which is none of the 2 classes"):
        load(Data("mine", str(tmp_path)), needs_train=False, classes=("ape", "cat", "dog", "emu"))


@pytest.mark.parametrize("kind", ["folder", "names", "declared"])
def test_classes_of_test_images_alone_are_numbered_as_a_network_s(kind, tmp_path):
    known = ("ape", "cat", "dog", "emu")
    if kind == "folder":
        write_images(tmp_path / "test", ["cat", "emu"], 2)
    else:
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "emu"]))
        labels = ["cat", "cat", "emu", "emu"] if kind == "names" else [0, 0, 1, 1]
        declared = None if kind == "names" else features
        write_parquet(tmp_path / "test.parquet", pictures(4), labels, features=declared)
    data = Data("mine", str(tmp_path))
    found = load(data, needs_train=False, classes=known)
    assert found.classes == known
    assert found.test.labels.tolist() == [1, 1, 3, 3]
    assert load(data, needs_train=False, classes=("cat", "cow")).classes == ("cat", "emu")
    assert load(data, needs_train=False).test.labels.tolist() == [0, 0, 1, 1]


def test_classes_that_are_numbers_are_said_to_be_in_alphabetical_order(tmp_path):
    write_images(tmp_path, ["0", "2", "10"], 5)
    (note,) = custom(tmp_path).notes
    assert note.startswith("The classes are numbers in alphabetical order, '10' before '2': a network from elsewhere")


def test_a_test_folder_may_lack_classes(tmp_path):
    write_images(tmp_path / "train", ["a", "b"], 3)
    write_images(tmp_path / "test", ["b"], 3, seed=1)
    data = custom(tmp_path)
    assert data.test.labels.tolist() == [1, 1, 1]
    assert data.notes == ("No test images of 1 of the 2 classes: a.",)


# The hub --------------------------------------------------------------------------------------------------------------


class FakeBuilder:
    hash = "revision"

    def download_and_prepare(self):
        pass

    def as_dataset(self):
        names = [str(number) for number in range(10)]
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))

        def part(count):
            columns = {"image": list(pictures(count, (28, 28), count)), "label": [row % 10 for row in range(count)]}
            return datasets.Dataset.from_dict(columns, features)

        return datasets.DatasetDict(train=part(30), test=part(20))


def test_hub_data_sets_go_the_same_way(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: asked.append(name) or FakeBuilder())
    data = load(Data("mnist", validation=0))
    assert torch.equal(data.train.pixels, torch.from_numpy(pictures(30, (28, 28), 30))[:, None])
    assert len(data.test) == 20
    load(Data("somebody/digits"))
    assert asked == ["ylecun/mnist", "somebody/digits"]
    assert not datasets.are_progress_bars_disabled()


def test_an_unreachable_hub_is_said_in_one_sentence(monkeypatch):
    def offline(name):
        raise ConnectionError(f"Couldn't reach {name!r}\nand more")

    monkeypatch.setattr(datasets, "load_dataset_builder", offline)
    with pytest.raises(BadInput, match=r"ILSVRC/imagenet-1k cannot be loaded .*\(Couldn't reach.*\): set data.path"):
        load(Data("imagenet"))


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifar1O"}, "Unknown data set 'cifar1O': did you mean 'cifar10'"),
        ({"name": "cifar10", "path": "/no/such/folder"}, "data.path is '/no/such/folder', which does not exist"),
        ({"name": "cifar10", "path": __file__}, "which is not a folder"),
        ({"path": "."}, "data.name is 'digits', which needs none"),
        ({"limit": 0}, "data.limit is 0"),
        ({"limit": 1438}, "data.limit is 1438, but there are only 1437"),
        ({"test_limit": -2}, "data.test_limit is -2"),
        ({"test_limit": 361}, "data.test_limit is 361, but there are only 360"),
        ({"validation": -1}, "data.validation is -1"),
        ({"limit": 50, "validation": 50}, "data.validation is 50, but there are only 50"),
        ({"size": 0}, "data.size is 0"),
    ],
)
def test_bad_configuration_is_refused(options, message):
    with pytest.raises(BadInput, match=message):
        load(Data(**options))


def _no_test(folder):
    (folder / "test.parquet").unlink()


def _no_train(folder):
    (folder / "train.parquet").unlink()


def _corrupt(folder):
    file = folder / "test.parquet"
    file.write_bytes(file.read_bytes()[:200])


def _columns(folder):
    write_parquet(folder / "train.parquet", pictures(2), [0, 1], columns=("photo", "label"))


def _empty(folder):
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(table.slice(0, 0), folder / "train.parquet")


def _null_label(folder):
    write_parquet(folder / "test.parquet", pictures(3), [0, None, 1])


def _no_image(folder):
    pq.write_table(pa.table({"image": [{"bytes": b"", "path": None}, None], "label": [0, 1]}), folder / "test.parquet")


def _numbers(folder):
    pq.write_table(pa.table({"image": [1, 2], "label": [0, 1]}), folder / "test.parquet")


def _damaged(folder):
    images = [png(image) for image in pictures(3, (40, 40, 3))]
    write_parquet(folder / "train.parquet", [*images[:2], images[2][:500]], [0, 1, 2])
    write_parquet(folder / "test.parquet", images[:1], [0])


def _sixteen_bits(folder):
    write_parquet(folder / "train.parquet", [np.full((4, 4), 999, dtype=np.uint16)] * 2, [0, 1])
    write_parquet(folder / "test.parquet", pictures(1), [0])


def _sixteen_bit_colours(folder):
    """Two classes that differ in the lower halves alone, as PIL would not see; written by hand, as PIL cannot."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for label, value in (("a", 300), ("b", 500)):
        for split in ("train", "test"):
            rows = (b"\0" + struct.pack(">12H", *[value] * 12)) * 4
            head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
            target = folder / split / label / "0.png"
            target.parent.mkdir(parents=True)
            target.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_sixteen_bit_colours_are_refused(tmp_path) -> None:
    _sixteen_bit_colours(tmp_path)
    with pytest.raises(BadInput, match="0.png has more than 8 bits per channel"):
        load(Data("mine", path=str(tmp_path)))


def _other_size(folder):
    write_parquet(folder / "test.parquet", pictures(2, (7, 7, 3)), [0, 1])


def _unlabelled(folder):
    write_parquet(folder / "test.parquet", pictures(5), [0, -1, 1, -1, -1])


def _class_more(folder):
    write_parquet(folder / "test.parquet", pictures(3), [0, 4, 4])


def _typo(folder):
    write_parquet(folder / "train.parquet", pictures(4), ["cats", "dogs", "cats", "dogs"])
    write_parquet(folder / "test.parquet", pictures(3), ["cats", "dosg", "dogs"])


def _nameless(folder):
    write_parquet(folder / "train.parquet", pictures(4), ["cats", "dogs", " ", " "])
    write_parquet(folder / "test.parquet", pictures(2), ["cats", "dogs"])


def _mixed(folder):
    write_parquet(folder / "test.parquet", pictures(2), ["0", "1"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_test, "no test split: call its file test.parquet"),
        (_no_train, "no train split: call its file train.parquet"),
        (_corrupt, r"test.parquet cannot be read as parquet"),
        (_columns, r"train.parquet has the columns photo, label: rename one to image or img"),
        (_empty, "train has no rows"),
        (_null_label, "test, row 1 has the label None: give every image a whole number"),
        (_no_image, r"2 images cannot be decoded \(.*test, row 0, .*test, row 1\): replace them"),
        (_numbers, "test: the column image does not hold images"),
        (_damaged, "train, row 2 cannot be decoded"),
        (_sixteen_bits, "train, row 0 has more than 8 bits"),
        (_other_size, r"training images have \(6, 5\) pixels, the test images \(7, 7\): set data.size"),
        (_unlabelled, r"test has the label -1 in 3 rows, which names no class: remove them"),
        (_class_more, r"test has the label 4 in 2 rows, and no training image has it: correct or remove them"),
        (_typo, r"test has the label 'dosg' in 1 rows, and no training image has it"),
        (_nameless, r"train has the label ' ' in 2 rows, which names no class"),
        (_mixed, "numbers as labels in one split and names in the other"),
    ],
)
def test_bad_parquet_is_refused(pack, spoil, message):
    folder, _, _ = pack
    spoil(folder)
    with pytest.raises(BadInput, match=message):
        custom(folder)


def test_shards_may_hold_labels_of_different_width(tmp_path):
    for shard, kind in enumerate((pa.int32(), pa.int64())):
        images = [{"bytes": png(image), "path": None} for image in pictures(4, seed=shard)]
        table = pa.table({"image": images, "label": pa.array([0, 1, 0, 1], kind)})
        pq.write_table(table, tmp_path / f"train-{shard}.parquet")
    write_parquet(tmp_path / "test.parquet", pictures(2), [0, 1])
    assert len(custom(tmp_path).train) + len(custom(tmp_path).validation) == 8


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no sub-folder with images"):
        custom(tmp_path)
    write_images(tmp_path, ["one"], 2)
    with pytest.raises(BadInput, match="only one sub-folder"):
        custom(tmp_path)
    write_images(tmp_path / "train", ["one", "two"], 2)
    with pytest.raises(BadInput, match="no test images: add a folder test"):
        custom(tmp_path)
    write_images(tmp_path / "test", ["one", "three"], 2)
    with pytest.raises(BadInput, match="has a class 'three' that"):
        custom(tmp_path)
    (tmp_path / "test" / "three").rename(tmp_path / "test" / "two")
    (tmp_path / "train" / "two" / "002.png").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"train/two/002.png cannot be decoded"):
        custom(tmp_path)


def test_a_known_name_has_its_number_of_classes(pack):
    folder, _, _ = pack
    with pytest.raises(BadInput, match=r"'cifar10', which has 10 classes, but .* has 4: give it a name of its own"):
        load(Data("cifar10", str(folder)))


# Real data ------------------------------------------------------------------------------------------------------------


def test_cifar10(shared, no_network):
    data = load(Data("cifar10", shared("cifar10"), limit=2000, test_limit=500, augment=Augment(4, True)))
    assert data.train.pixels.shape == (1900, 3, 32, 32)
    assert (len(data.validation), len(data.test)) == (100, 500)
    assert data.classes[:3] == ("airplane", "automobile", "bird")
    assert data.mean == pytest.approx((0.4913, 0.4821, 0.4465), abs=0.01)
    assert data.std == pytest.approx((0.2452, 0.2428, 0.2606), abs=0.01)


def test_gtsrb(shared):
    data = load(Data("gtsrb", shared("gtsrb"), validation=86, test_limit=100))
    assert len(data.classes) == 43
    assert torch.bincount(data.validation.labels).tolist() == [2] * 43
    with pytest.raises(BadInput, match=r"10 classes, but .* has 43"):
        load(Data("cifar10", shared("gtsrb")))


def test_tiny_imagenet_has_gray_images_in_colour(shared):
    data = load(Data("tiny_imagenet", shared("tiny_imagenet"), limit=1000, test_limit=200, validation=0))
    assert data.train.pixels.shape == (1000, 3, 64, 64)
    gray = [sources._is_gray(image[None]) for image in data.train.pixels]
    assert 5 < sum(gray) < 50  # 366 of 20000


def test_mnist_has_one_channel(shared):
    data = load(Data("mnist", shared("mnist"), limit=1000, test_limit=100))
    assert data.train.pixels.shape == (900, 1, 28, 28)
    assert data.mean == pytest.approx((0.1307,), abs=0.01)


def test_imagenet_sample_has_no_training_images(shared):
    with pytest.raises(BadInput, match="no train split"):
        load(Data("imagenet", shared("imagenet_sample"), size=224))
