"""Labelled images on the host, made from what people have: tensors, NumPy arrays and lists, data sets and loaders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from sparring.errors import BadInput, first_line, shown
from sparring.importing import located

Array: TypeAlias = Tensor | npt.NDArray[Any] | Sequence[Any]

_CHANNELS = (1, 3, 4)  # of pictures, where they come last
_OVERSHOOT = 0.05  # of interpolation, in [0, 1]
_ROUNDING = 1e-6  # of single precision, in [0, 1]


@dataclass(frozen=True, eq=False, init=False)
class Images:
    """Labelled images in host memory: 8-bit pixels, or fractions in [0, 1] in single precision, which stay as they are."""

    pixels: UInt8[Tensor, "N C H W"] | Float32[Tensor, "N C H W"]
    labels: Int64[Tensor, "N"]
    index: Int64[Tensor, "N"]  # the key of whatever is remembered about a sample, such as an attack's noise

    def __init__(self, pixels: Array, labels: Array, index: Array | None = None) -> None:
        """Take images as they are, and never write into them.

        Nothing is copied that need not be: where pixels, labels and index have their types already, who writes into them
        later changes the images, too.

        Args:
            pixels: (N, C, H, W), of whole numbers from 0 to 255 or of fractions in [0, 1]; the type tells which. Doubles
                are rounded to single precision.
            labels: (N,) or (N, 1), whole numbers; classes count from 0.
            index: (N,), whole numbers; None is 0 .. N-1. For training, no two are the same.

        Raises:
            BadInput: pixels of another shape, type or range; labels that are no class numbers; unequal lengths; sparse or
                quantized tensors.
        """
        images = _checked_pixels(_tensor(pixels, "pixels"))
        classes = _checked_labels(_tensor(labels, "labels"))
        keys = torch.arange(len(images)) if index is None else _whole(_tensor(index, "indices"), "indices")
        if len(classes) != len(images):
            raise BadInput(f"There are {len(images)} images and {len(classes)} labels: give each image one label.")
        if keys.shape != classes.shape:
            raise BadInput(f"There are {len(images)} images and {len(keys)} indices: leave them out for 0, 1, 2, ...")
        object.__setattr__(self, "pixels", images)
        object.__setattr__(self, "labels", classes)
        object.__setattr__(self, "index", keys)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: Int64[Tensor, "M"]) -> Images:
        """Return some of the images; each keeps its index."""
        return Images(self.pixels[rows], self.labels[rows], self.index[rows])

    def levels(self) -> UInt8[Tensor, "N C H W"]:
        """Return the pixels as bytes; raises BadInput for fractions that are none of the 256 levels."""
        if self.pixels.dtype == torch.uint8:
            return self.pixels
        rounded = (self.pixels * 255).round()
        if len(self) and float((rounded / 255 - self.pixels).abs().max()) > _ROUNDING:
            raise BadInput(
                "Training keeps images as 8-bit pixels, and some of these lie between two of the 256 levels: round them, "
                "as in Images((pixels * 255).round().to(torch.uint8), labels)."
            )
        return rounded.to(torch.uint8)


Labelled: TypeAlias = Images | tuple[Array, Array] | Dataset[Any] | DataLoader[Any]


def images_of(data: object) -> Images:
    """Return the images of a pair (pixels, labels), of a torch Dataset of pairs, or of a DataLoader of such batches.

    A Dataset and a DataLoader are read once, in their order, into host memory. Raises BadInput for a loader that shuffles,
    for data that fail when they are read, for items that are no pairs or images of several sizes or types, for anything
    else, and for what `Images` refuses.
    """
    if isinstance(data, Images):
        return data
    if isinstance(data, tuple | list) and len(data) == 2:
        return Images(*data)
    if isinstance(data, DataLoader):
        order = getattr(data.batch_sampler, "sampler", data.sampler)
        if not isinstance(data.dataset, IterableDataset) and not isinstance(order, SequentialSampler):
            raise BadInput(
                f"The DataLoader takes images by a {type(order).__name__}, not all in their order: make one with "
                "shuffle=False and no sampler."
            )
        if data.drop_last or getattr(data.batch_sampler, "drop_last", False):
            raise BadInput(
                "The DataLoader drops its last, smaller batch, so images would be missing: set drop_last=False."
            )
        name = "DataLoader's batches"
        images, labels = _columns(data, name)
        if data.batch_sampler is None and images[0].ndim == 3:  # batch_size=None: what the data set gives, one by one
            return Images(images, labels)
        return Images(_joined(images, name), _joined(labels, name))
    if isinstance(data, Dataset):
        items = data if isinstance(data, IterableDataset) else (data[i] for i in range(_length(data)))
        return Images(*_columns(items, "Dataset's items"))
    raise BadInput(
        f"The data are {shown(data)}: give Data('digits') or the like, loaded Splits, Images(pixels, labels), a pair of "
        "pixels and labels, or a torch Dataset or DataLoader of such pairs."
    )


def _columns(items: Iterable[Any], name: str) -> tuple[list[Any], list[Any]]:
    """Return the first and the second parts of all items."""
    images, labels = [], []
    for item in _read(items, name):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise BadInput(f"The {name} are of type {type(item).__name__}: they must be pairs (image, label).")
        if not isinstance(item[0], Tensor | np.ndarray):
            raise BadInput(
                f"The {name} hold images of type {type(item[0]).__name__}: make them tensors (C, H, W) in [0, 1], as "
                "transform=torchvision.transforms.ToTensor() does."
            )
        images.append(item[0])
        labels.append(item[1])
        kinds = [f"{_kind(image)} of shape {tuple(image.shape[-3:])}" for image in (images[0], item[0])]
        if kinds[0] != kinds[1]:  # torch would make floats of bytes, without a division by 255
            raise BadInput(
                f"The {name} hold images that differ, {kinds[0]} and {kinds[1]}: bring all to one size and type."
            )
    if not images:
        raise BadInput(f"There are none of the {name}: give at least one image.")
    return images, labels


def _read(items: Iterable[Any], name: str) -> Iterator[Any]:
    try:
        yield from items
    except Exception as error:  # of anybody's data set: it may fail in any way
        raise BadInput(f"The {name} cannot be read: {located(error)}.") from error


def _joined(batches: list[Any], name: str) -> Tensor:
    try:
        return torch.cat([_tensor(batch, name) for batch in batches])
    except RuntimeError as error:
        raise BadInput(f"The {name} cannot be put together: {first_line(error)}.") from error


def _length(data: Dataset[Any]) -> int:
    if not isinstance(data, Sized):
        raise BadInput(f"The {type(data).__name__} has no length: give it __len__, or make it an IterableDataset.")
    return len(data)


def _tensor(value: object, name: str) -> Tensor:
    """Return tensors, arrays and lists of them as one tensor on the host, which may share the caller's memory."""
    try:
        if isinstance(value, Tensor):
            return _dense(value, name)
        if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
            return torch.stack([_dense(torch.as_tensor(item), name) for item in value])
        array = np.require(value, requirements=["C", "W"])  # what torch can share
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except BadInput:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise BadInput(
            f"The {name} are no array of numbers ({first_line(error)}): give a tensor or an array."
        ) from error


def _dense(value: Tensor, name: str) -> Tensor:
    """Return a tensor on the host; raises BadInput for what is no plain one."""
    if value.layout != torch.strided or value.is_nested:
        raise BadInput(f"The {name} are sparse or nested tensors: give dense ones, such as by .to_dense().")
    if value.is_quantized:
        raise BadInput(f"The {name} are quantized tensors: give .dequantize() of them.")
    return value.detach().cpu()


def _checked_pixels(pixels: Tensor) -> Tensor:
    """Return pixels as bytes or as floats in single precision; raises BadInput for all that `Images` does not take."""
    _check_shape(pixels)
    if pixels.dtype == torch.uint8:
        return pixels
    kind = _kind(pixels)
    if pixels.dtype == torch.bool or pixels.is_complex():
        raise BadInput(f"Pixels are {kind}: give bytes, or fractions in [0, 1], such as pixels.float().")
    fractions = pixels.is_floating_point()
    pixels = pixels.to(torch.float32 if fractions else torch.int64)
    if pixels.numel():
        low, high = (float(value) for value in pixels.aminmax())
        if not (low >= 0 and high <= (1 if fractions else 255)):  # NaN, too
            raise BadInput(f"Pixels are {kind} from {low:.4g} to {high:.4g}{_scale(low, high, fractions)}")
    return pixels if fractions else pixels.to(torch.uint8)


def _check_shape(pixels: Tensor) -> None:
    shape = tuple(pixels.shape)
    wanted = "give (images, channels, height, width)"
    if len(shape) == 3:
        raise BadInput(
            f"Pixels have shape {shape}: {wanted}, by pixels[None] for one image, pixels[:, None] for gray ones."
        )
    if len(shape) != 4:
        raise BadInput(f"Pixels have shape {shape}: {wanted}, reshaping what is flat.")
    if shape[3] in _CHANNELS and shape[3] < min(shape[1:3]):
        raise BadInput(f"Pixels have shape {shape}, with the channels last: {wanted}, by .permute(0, 3, 1, 2).")


def _scale(low: float, high: float, fractions: bool) -> str:
    """Return what is wrong with pixels in that range, and how to mend it."""
    if not fractions:
        return ": whole numbers are bytes, from 0 to 255."
    if not math.isfinite(low + high):
        return ", some NaN or infinite: repair these images or leave them out."
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return ", a little outside [0, 1], as resizing leaves them: give pixels.clamp(0, 1)."
    if low < 0:
        return ", not in [0, 1]: undo their normalisation and let the model normalise (sparring.models.Normalised)."
    return ", not in [0, 1]: divide by 255 what goes from 0 to 255."


def _checked_labels(labels: Tensor) -> Tensor:
    """Return class numbers (N,); raises BadInput for all that `Images` does not take."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        raise BadInput(f"Labels have shape {tuple(labels.shape)}, as one-hot ones do: give labels.argmax(1).")
    return _whole(labels, "labels")


def _whole(values: Tensor, name: str) -> Tensor:
    """Return values (N,) as int64; raises BadInput for another shape, or where their type holds more than whole numbers."""
    if values.ndim != 1:
        raise BadInput(f"The {name} have shape {tuple(values.shape)}: give one whole number for each image.")
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise BadInput(f"The {name} are {_kind(values)}: give whole numbers, by {name}.long() where these are.")
    return values.long()


def _kind(values: Tensor | npt.NDArray[Any]) -> str:
    return str(values.dtype).removeprefix("torch.")
