"""Where FGSM-EP and FGSM-MEP remember a tensor for each training image, on its canvas or in the crop's coordinates."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sparring.data.augment import View
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.memory import Kind, SampleMemory
from sparring.methods.base import Task
from sparring.threat import Ratio, Threat


class RemembersSamples(Protocol):
    """What a method says of its memory: see `EP`."""

    alpha: Ratio | None
    aligned: bool
    memory: Kind


def new_perturbations(method: RemembersSamples, task: Task) -> SampleMemory:
    """Return an empty memory of perturbations in pixel levels, or, in fp32, in pixel values.

    Raises BadInput for a stream, and with int8 for perturbations that are not whole pixel levels up to 127.
    """
    if method.memory == "int8":
        _check_levels(task.threat, method.alpha)
    return new_memory(method, task, method.memory, 1.0 if method.memory == "fp32" else 255.0)


def _check_levels(threat: Threat, alpha: Ratio | None) -> None:
    """Raise BadInput unless all perturbations are whole pixel levels that int8 can hold."""
    if not threat.geometry.bounds_numbers:
        raise BadInput(f"A memory of int8 holds whole pixel levels, unlike an {threat.norm} ball: set memory to fp16.")
    for name, value in (("eps", threat.eps), ("alpha", threat.eps if alpha is None else alpha)):
        if (255 * value.exact).denominator != 1 or 255 * value.exact > 127:
            raise BadInput(
                f"A memory of int8 holds whole pixel levels up to 127/255, but {name} is {value}: write it as one of them, "
                "such as 8/255, or set memory to fp16."
            )


def new_memory(method: RemembersSamples, task: Task, kind: Kind, scale: float) -> SampleMemory:
    """Return an empty memory of one tensor for each training image; raises BadInput for a stream."""
    if task.samples is None:
        raise BadInput(
            f"{type(method).__name__} remembers each image, which a stream does not allow as its images have no stable "
            "index: choose the method BP (FGSM-BP), which remembers one batch."
        )
    return SampleMemory(task.samples, task.canvas if method.aligned else task.shape, task.device, kind, scale)


def read(memory: SampleMemory, batch: Batch, aligned: bool) -> Tensor:
    """Return the samples' rows as this epoch's views show them, (B, C, H, W)."""
    _check_places(batch.index, batch.view, aligned)
    rows = memory.read(batch.index)
    return batch.view.show(rows) if aligned else rows


def write(memory: SampleMemory, batch: Batch, aligned: bool, values: Tensor) -> None:
    """Put the values back where the views saw them; what they did not see stays."""
    memory.write(batch.index, batch.view.write_back(memory.read(batch.index), values) if aligned else values)


def _check_places(index: object, view: object, aligned: bool) -> None:
    """Raise BadInput for a batch, made by hand, that does not say where its samples are remembered."""
    if not isinstance(index, Tensor):
        raise BadInput(
            "The batch has no index, by which its images are remembered: give their rows in the training set."
        )
    if aligned and not isinstance(view, View):
        raise BadInput(
            "The batch has no view, which says what of each image it shows: give Augment().identity(images, (H, W)) for "
            "whole images, or set aligned to False."
        )
