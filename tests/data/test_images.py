"""Images are taken as people have them, or refused in a sentence; and never written into."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

from sparring.data import Augment, Images, Resident, batches, images_of
from sparring.errors import BadInput
from sparring.memory import SampleMemory

BYTES = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 3
FRACTIONS = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def shown(images: Images) -> torch.Tensor:
    (batch,) = batches(images, len(images), "cpu")
    return batch.x


# Pixels -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels",
    [
        BYTES,
        BYTES.long(),
        BYTES.int(),
        BYTES.short(),
        BYTES.numpy(),
        BYTES.numpy().astype(np.uint16),
        BYTES.numpy().astype(">i4"),
        BYTES.numpy()[:, ::-1][:, ::-1],
        BYTES.tolist(),
        list(BYTES),
        list(BYTES.numpy()),
    ],
)
def test_whole_numbers_are_bytes(pixels) -> None:
    images = Images(pixels, LABELS)
    assert images.pixels.dtype == torch.uint8
    assert torch.equal(images.pixels, BYTES)
    assert torch.equal(shown(images), BYTES / 255)
    assert torch.equal(images.index, torch.arange(6))


@pytest.mark.parametrize(
    "pixels", [FRACTIONS, FRACTIONS.double(), FRACTIONS.numpy(), FRACTIONS.double().numpy(), FRACTIONS.tolist()]
)
def test_floats_are_fractions_and_stay_as_they_are(pixels) -> None:
    images = Images(pixels, LABELS)
    assert torch.equal(images.pixels, FRACTIONS)
    assert torch.equal(shown(images), FRACTIONS)
    assert torch.equal(shown(images.subset(torch.tensor([4, 1]))), FRACTIONS[[4, 1]])


def test_half_precision_is_exact_in_single() -> None:
    assert torch.equal(Images(FRACTIONS.half(), LABELS).pixels, FRACTIONS.half().float())


def test_read_only_arrays_are_taken() -> None:
    pixels = FRACTIONS.numpy().copy()
    pixels.setflags(write=False)
    assert torch.equal(Images(pixels, LABELS).pixels, FRACTIONS)


def test_the_caller_s_pixels_are_never_written_into() -> None:
    pixels = FRACTIONS.clone()
    for batch in batches(Images(pixels, LABELS), 4, "cpu"):
        batch.x.zero_()  # as a network may
    assert torch.equal(pixels, FRACTIONS)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (FRACTIONS * 255, "float32 from [0-9.]+ to 25[0-9.]+, not in .0, 1.: divide by 255"),
        (
            FRACTIONS * 2 - 1,
            "from -[0-9.]+ to [0-9.]+, not in .0, 1.: undo their normalisation .*Normalised",
        ),
        (FRACTIONS * 1.01 - 0.005, r"a little outside .* pixels\.clamp\(0, 1\)"),
        (FRACTIONS / 0, "NaN or infinite"),
        (FRACTIONS.where(FRACTIONS > 0.5, torch.nan), "NaN or infinite"),
        (BYTES.int() * 2, "int32 from 0 to [0-9]+: whole numbers are bytes"),
        (BYTES.int() - 1, "from -1 to [0-9]+: whole numbers are bytes"),
        (BYTES.view(torch.int8), "int8 from -1[0-9]+ to 12[0-9]: whole numbers are bytes"),
        (BYTES > 100, r"bool: .* pixels\.float\(\)"),
        (FRACTIONS[0], r"\(3, 8, 8\): .* pixels\[None\] for one image, pixels\[:, None\] for gray"),
        (FRACTIONS.flatten(1), r"\(6, 192\): give \(images, channels, height, width\), reshaping"),
        (FRACTIONS.permute(0, 2, 3, 1), r"\(6, 8, 8, 3\), with the channels last: .*\.permute\(0, 3, 1, 2\)"),
        (FRACTIONS[:, :1].permute(0, 2, 3, 1).numpy(), "channels last"),
        ("digits", "no array of numbers"),
        ([[1, 2], [3]], "no array of numbers"),
        ([FRACTIONS[0], FRACTIONS[0, :1]], "no array of numbers"),
        ([], "shape"),
        (FRACTIONS.to_sparse(), r"pixels are sparse or nested tensors: give dense ones, such as by \.to_dense\(\)"),
        ([image.to_sparse() for image in FRACTIONS], "pixels are sparse or nested tensors"),
        (torch.nested.nested_tensor(list(FRACTIONS), layout=torch.jagged), "pixels are sparse or nested tensors"),
        (torch.empty(6, 3, 8, 8, device="meta"), "no array of numbers"),
    ],
)
def test_other_pixels_are_refused_with_what_to_do(pixels, said: str) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        Images(pixels, LABELS)
    assert "\n" not in str(refused.value)


# Labels -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        *(LABELS.to(kind) for kind in (torch.int32, torch.int16, torch.int8, torch.uint8)),
        LABELS[:, None],
        LABELS.numpy().astype(np.uint16),
        LABELS.tolist(),
        tuple(LABELS),
    ],
)
def test_labels_of_any_whole_type_are_taken(labels) -> None:
    images = Images(BYTES, labels)
    assert images.labels.dtype == torch.int64
    assert torch.equal(images.labels, LABELS)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.nn.functional.one_hot(LABELS), r"\(6, 3\), as one-hot ones do: give labels\.argmax\(1\)"),
        (LABELS.float(), r"labels are float32: .* labels\.long\(\)"),
        (LABELS.float()[:, None], r"labels\.long\(\)"),
        (LABELS > 0, r"labels are bool: .* labels\.long\(\)"),
        (LABELS[:5], "6 images and 5 labels"),
        (LABELS[0], "labels have shape"),
        (LABELS.to_sparse(), "labels are sparse or nested tensors"),
        (["cat"] * 6, "labels are no array of numbers"),
    ],
)
def test_other_labels_are_refused_with_what_to_do(labels, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Images(BYTES, labels)


def test_an_index_belongs_to_every_image() -> None:
    assert Images(BYTES, LABELS, [5, 4, 3, 2, 1, 0]).index.tolist() == [5, 4, 3, 2, 1, 0]
    with pytest.raises(BadInput, match="6 images and 2 indices"):
        Images(BYTES, LABELS, [0, 1])
    with pytest.raises(BadInput, match="indices are float64"):
        Images(BYTES, LABELS, [0.5] * 6)


# What training keeps ----------------------------------------------------------------------------------------------------


def test_training_keeps_fractions_that_are_levels_as_bytes() -> None:
    for pixels in (BYTES / 255, BYTES.double() / 255, BYTES * torch.tensor(1 / 255)):
        assert torch.equal(Images(pixels, LABELS).levels(), BYTES)
    for data in (Images(BYTES / 255, LABELS), (BYTES, LABELS), TensorDataset(BYTES / 255, LABELS)):
        (batch,) = Resident(data, Augment(), 6, 0, "cpu").epoch(0)
        assert torch.equal(batch.x, (BYTES / 255)[batch.index])


def test_training_refuses_fractions_between_levels() -> None:
    with pytest.raises(BadInput, match=r"between two of the 256 levels: .*\(pixels \* 255\)\.round\(\)"):
        Resident(Images(FRACTIONS, LABELS), Augment(), 6, 0, "cpu")


@pytest.mark.parametrize(
    ("index", "said"),
    [([0, 7, 7, 3, 7, 1], "3 of them have the index 7: leave indices out"), ([-1, 0, 1, 2, 3, 4], "and one is -1")],
)
def test_training_refuses_indices_that_are_not_of_one_image(index: list[int], said: str) -> None:
    with pytest.raises(BadInput, match=f"Training remembers images by their index, .*{said}"):
        Resident(Images(BYTES, LABELS, index), Augment(), 6, 0, "cpu")


def test_memories_have_room_for_the_indices_of_a_subset() -> None:
    data = Resident(Images(BYTES, LABELS).subset(torch.tensor([4, 1])), Augment(), 2, 0, "cpu")
    (batch,) = data.epoch(0)
    memory = SampleMemory(data.samples, (1,))
    memory.write(batch.index, torch.tensor([[1.0], [2.0]]))
    assert memory.read(batch.index).flatten().tolist() == [1, 2]
    assert sorted(batch.index.tolist()) == [1, 4]


def test_evaluation_takes_an_image_several_times() -> None:
    some = Images(BYTES, LABELS).subset(torch.tensor([2, 2, 0]))
    assert some.index.tolist() == [2, 2, 0]


@pytest.mark.parametrize(("labels", "said"), [(LABELS - 1, "from -1 to 1"), (LABELS + 8, "from 8 to 10")])
def test_training_refuses_labels_that_are_no_classes(labels, said: str) -> None:
    with pytest.raises(BadInput, match=f"{said}, but there are the classes 0 to 9"):
        Resident(Images(BYTES, labels), Augment(), 6, 0, "cpu", classes=10)


# Pairs, data sets and loaders -------------------------------------------------------------------------------------------


class Pairs(Dataset):
    """Arrays and numbers, as data sets of one's own give them."""

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, row: int):
        return FRACTIONS[row].numpy(), int(LABELS[row])


class Endless(Dataset):
    def __getitem__(self, row: int):
        return FRACTIONS[0], 0


class Batches(IterableDataset):
    """Whole batches, for a loader that makes none."""

    def __iter__(self):
        return iter([(FRACTIONS[:4], LABELS[:4]), (FRACTIONS[4:], LABELS[4:])])


class Items(Dataset):
    """What a function returns for each of four rows."""

    def __init__(self, item) -> None:
        self.item = item

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int):
        return self.item(row)


def of_two_sizes(row: int):
    return torch.rand(3, 8, 8 + row // 2), row


def of_two_types(row: int):
    return (FRACTIONS if row < 2 else BYTES)[row], row


def failing(row: int):
    raise KeyError("cat.png")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(FRACTIONS, LABELS, strict=True))


class Of(Dataset):
    """One item, whatever it is."""

    def __init__(self, item) -> None:
        self.item = item

    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int):
        return self.item


@pytest.mark.parametrize(
    "data",
    [
        Images(FRACTIONS, LABELS),
        (FRACTIONS, LABELS),
        [FRACTIONS.numpy(), LABELS.tolist()],
        TensorDataset(FRACTIONS, LABELS),
        Pairs(),
        Stream(),
        DataLoader(TensorDataset(FRACTIONS, LABELS), batch_size=4),
        DataLoader(Pairs(), batch_size=4),
        DataLoader(Stream(), batch_size=5),
        DataLoader(Pairs(), batch_size=None),
        DataLoader(Stream(), batch_size=None),
        DataLoader(Batches(), batch_size=None),
    ],
)
def test_pairs_data_sets_and_loaders_are_read_in_their_order(data) -> None:
    images = images_of(data)
    assert torch.equal(images.pixels, FRACTIONS)
    assert torch.equal(images.labels, LABELS)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            DataLoader(Pairs(), shuffle=True),
            "takes images by a RandomSampler, not all in their order: .* shuffle=False",
        ),
        (DataLoader(Pairs(), sampler=SubsetRandomSampler([0, 1])), "takes images by a SubsetRandomSampler"),
        (DataLoader(Pairs(), batch_size=2, drop_last=True), "drops its last, smaller batch, .*: set drop_last=False"),
        (TensorDataset(FRACTIONS), r"Dataset's items are of type tuple: they must be pairs \(image, label\)"),
        (Of({"image": FRACTIONS[0], "label": 0}), "of type dict: they must be pairs"),
        (Of((object(), 0)), r"hold images of type object: .*ToTensor\(\)"),
        (DataLoader(TensorDataset(FRACTIONS)), "they must be pairs"),
        (TensorDataset(FRACTIONS[:0], LABELS[:0]), "give at least one image"),
        (Endless(), "Endless has no length"),
        (
            Items(of_two_sizes),
            r"items hold images that differ, float32 of shape \(3, 8, 8\) and .* \(3, 8, 9\): bring all",
        ),
        (DataLoader(Items(of_two_sizes), batch_size=2), "batches hold images that differ"),
        (DataLoader(Items(of_two_sizes), batch_size=4), "batches cannot be read: .*collate.py, line .*equal size"),
        (DataLoader(Items(of_two_sizes), batch_size=None), "batches hold images that differ"),
        (DataLoader(Items(of_two_types), batch_size=2), "float32 of shape .* and uint8 of shape"),
        (Items(of_two_types), "float32 of shape .* and uint8 of shape"),
        (Items(failing), r"items cannot be read: .*test_images.py, line \d+: KeyError: 'cat.png'"),
        (DataLoader(Items(failing)), r"batches cannot be read: .*test_images.py, line \d+: KeyError"),
        (DataLoader(Items(lambda row: (FRACTIONS[row], "cat"))), "DataLoader's batches are no array of numbers"),
        (DataLoader(Items(lambda row: (FRACTIONS[row], [0] * row)), batch_size=None), "labels"),
        (FRACTIONS, "The data are of type Tensor: .* a pair of pixels and labels, or a torch Dataset"),
        (None, "The data are None"),
    ],
)
def test_other_data_are_refused_with_what_to_do(data, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        images_of(data)
