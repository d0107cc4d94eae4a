"""Work that is recorded once and replayed: on a GPU as a CUDA graph, which launches thousands of kernels as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


class Recording(Protocol):
    """Work that has been recorded."""

    def replay(self) -> None:
        """Do it again: the same operations on the same memory, and no Python."""


class Recorder(Protocol):
    """Makes recordings. What is recorded must not read a tensor on the host, nor allocate what outlives it unseen."""

    def rehearse(self, work: Callable[[], T]) -> T:
        """Do the work as it would be done while it is recorded, so that nothing happens for the first time then."""

    def record(self, work: Callable[[], T]) -> tuple[Recording, T]:
        """Run the work's Python without doing it; what it returned will hold values after each replay."""


class CudaRecorder:
    """Records on one GPU. All recordings share their memory, so what one returned is to be read before the next replay."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        torch.backends.cudnn.benchmark = True  # shapes are fixed: trying all algorithms once pays

    def rehearse(self, work: Callable[[], T]) -> T:
        """On the stream that records: autograd remembers the stream on which it first saw a tensor."""
        present = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            result = work()
        present.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        """Raises RuntimeError where the work does what a graph cannot hold, such as waiting for the device."""
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: others may allocate meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = work()
        return graph, result
