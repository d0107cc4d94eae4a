"""Several processes that share one batch: what belongs to the whole of it. With one process nothing here does anything.

Knows nothing about how the processes were started: it asks `torch.distributed`, or torchrun's environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the process group of the processes that torchrun started, and leave it at the end.

    Yields the device to compute on: with torchrun and a `device` of cuda the GPU of this process's local rank, otherwise
    `device` itself. Without torchrun there is no group.
    """
    if started() == 1:
        yield device
        return
    gpu = device.startswith("cuda")
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield f"cuda:{os.environ['LOCAL_RANK']}" if gpu else device
    finally:
        dist.destroy_process_group()


def started() -> int:
    """Return how many processes torchrun started, joined or not; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def count() -> int:
    """Return how many processes share the work."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def index() -> int:
    """Return this process's number among those that share the work, from 0."""
    return dist.get_rank() if count() > 1 else 0


def total(value: Tensor) -> Tensor:
    """Return the sum over the ranks, in every rank; `value` has the same shape in all of them."""
    if count() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, in one exchange; in place."""
    if count() == 1:
        return
    packed = torch.cat([tensor.detach().flatten() for tensor in tensors])
    dist.all_reduce(packed)
    packed /= count()
    parts = torch.split(packed, [tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def rows(value: Tensor) -> Tensor:
    """Return the rows of all ranks, (ranks * B, ...), rank by rank; every rank has equally many."""
    if count() == 1:
        return value
    gathered = [torch.empty_like(value) for _ in range(count())]
    dist.all_gather(gathered, value.detach().contiguous())
    return torch.cat(gathered)


def rows_with_gradient(value: Tensor) -> Tensor:
    """Return the rows of all ranks, as `rows`; gradients reach this rank's own, times the number of ranks.

    A loss of the whole batch, computed alike in every rank, then has its gradient once training has averaged over them.
    """
    if count() == 1:
        return value
    gathered = list(torch.split(rows(value), len(value)))
    gathered[index()] = value.detach() + count() * (value - value.detach())
    return torch.cat(gathered)
