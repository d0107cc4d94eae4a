"""Work that is captured once and replayed: on a GPU as a CUDA graph, which launches thousands of kernels as one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

from sparring.errors import BadInput

T = TypeVar("T")
_FAILED: list[torch.cuda.CUDAGraph] = []  # for the process's life: PyTorch's allocator goes on asking them


class Capture(Protocol):
    """Work that has been captured."""

    def replay(self) -> None:
        """Do it again: the same operations on the same memory, and no Python."""


class Capturer(Protocol):
    """Makes captures. What is captured must not read a tensor on the host, nor allocate what outlives it unseen."""

    obstacle: str  # why the work that was warmed up last cannot be captured; empty if nothing speaks against it

    def warm_up(self, work: Callable[[], T]) -> T:
        """Do the work as it will be captured, so that nothing happens for the first time then."""

    def capture(self, work: Callable[[], T]) -> tuple[Capture, T]:
        """Run the work's Python without doing it; what it returned will hold values after each replay."""


class CudaCapturer:
    """Captures on one GPU. All captures share their memory, so what one returned is to be read before the next replay."""

    def __init__(self, device: torch.device) -> None:
        self.obstacle = ""
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], T]) -> T:
        """Do the work on the stream that captures: autograd remembers the stream on which it first saw a tensor."""
        present = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(present)
        with noticed_waits() as waits, cudnn_benchmark(), torch.cuda.stream(self._stream):
            result = work()
        present.wait_stream(self._stream)
        self.obstacle = "it makes the host wait for the device" if waits else ""
        return result

    def capture(self, work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        """Raise RuntimeError where the work does what a graph cannot hold, and BadInput if no run can go on after that."""
        graph = torch.cuda.CUDAGraph()
        present = torch.cuda.current_stream(self._stream.device)
        try:
            # Of this thread alone: others may allocate meanwhile.
            capture = torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
            with cudnn_benchmark(), capture:
                result = work()
        except RuntimeError as error:
            torch.cuda.set_stream(present)
            _FAILED.append(graph)
            self._recover(error)
            raise
        return graph, result

    def _recover(self, error: RuntimeError) -> None:
        """End what a failed capture leaves begun: PyTorch's random numbers would go on waiting for its end."""
        another = torch.cuda.CUDAGraph()
        try:
            # Not by torch.cuda.graph, which empties caches first: some versions refuse to, after a capture that failed.
            with torch.cuda.stream(self._stream):
                another.capture_begin(capture_error_mode="thread_local")
                torch.zeros((), device=self._stream.device)
                another.capture_end()
            torch.rand((), device=self._stream.device)
        except RuntimeError:
            reason = str(error).splitlines()[0]
            raise BadInput(
                f"A training step could not be captured as a CUDA graph ({reason}), and PyTorch cannot go on after that: "
                "set runtime.level to eager or compile, and begin a new run."
            ) from error


@contextmanager
def cudnn_benchmark() -> Iterator[None]:
    """Let cuDNN try all algorithms for a shape that it meets for the first time and keep the best.

    That pays for the few shapes of captured steps, not for evaluation, whose batches shrink as images are fooled. It stays
    off where deterministic algorithms are asked for. A shape that the process has met outside is not tried any more.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def noticed_waits() -> Iterator[list[warnings.WarningMessage]]:
    """Yield what PyTorch notices of the host waiting for the device, a warning each time; complete after the block."""
    before = torch.cuda.get_sync_debug_mode()
    waits: list[warnings.WarningMessage] = []
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
            waits += [warning for warning in noticed if "synchronizing CUDA" in str(warning.message)]
    for other in noticed:
        if other not in waits and "Synchronization debug mode" not in str(other.message):  # what setting the mode says
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
