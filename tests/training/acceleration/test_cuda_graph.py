"""What surrounds a CUDA graph's capture, with PyTorch's part in it played: no GPU is needed to see what is put back."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import pytest
import torch

from sparring.errors import BadInput
from sparring.training.acceleration.cuda_graph import _FAILED, CudaCapturer


class Stream:
    device = torch.device("cpu")

    def wait_stream(self, other: object) -> None:
        """Nothing runs aside."""


class Graph:
    """One that is captured by hand."""

    def __init__(self, played: Played) -> None:
        self._played = played

    def capture_begin(self, **_: object) -> None:
        if not self._played.recoverable:
            raise RuntimeError("still broken")
        self._played.is_recording = True

    def capture_end(self) -> None:
        self._played.is_recording = False


class Played:
    """Of `torch.cuda` what a capturer uses. As in PyTorch, random numbers wait for the end of a capture that failed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, recoverable: bool = True) -> None:
        self.present = self.stream = Stream()
        self.graphs: list[object] = []
        self.mode = 0
        self.is_recording, self.recoverable = False, recoverable
        for name in ("set_stream", "graph", "get_sync_debug_mode", "set_sync_debug_mode", "stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, f"_{name}"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self.stream)
        monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream())
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        monkeypatch.setattr(torch, "rand", self._random)

    def _set_stream(self, stream: Stream) -> None:
        self.stream = stream

    @contextmanager
    def _stream(self, stream: Stream):
        yield

    @contextmanager
    def _graph(self, graph: object, *, stream: Stream, **_: object):
        self.graphs.append(graph)
        before, self.stream, self.is_recording = self.stream, stream, True
        try:
            yield
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture\nmore") from None
        self.stream, self.is_recording = before, False

    def _random(self, *_: object, **__: object) -> None:
        if self.is_recording:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    def _get_sync_debug_mode(self) -> int:
        return self.mode

    def _set_sync_debug_mode(self, mode: int | str) -> None:
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        self.mode = mode


def fails() -> None:
    raise RuntimeError("operation not permitted when stream is capturing")


def test_after_a_failed_recording_random_numbers_and_the_stream_are_as_before(monkeypatch) -> None:
    played = Played(monkeypatch)
    capturer = CudaCapturer(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="previous error during capture"):
        capturer.capture(fails)
    assert not played.is_recording
    assert played.stream is played.present
    assert played.graphs[0] in _FAILED
    assert capturer.capture(lambda: 3)[1] == 3


def test_where_nothing_helps_the_user_is_told_what_will(monkeypatch) -> None:
    Played(monkeypatch, recoverable=False)
    with pytest.raises(
        BadInput,
        match=r"could not be captured .*during capture.*set runtime.level to eager or compile, and begin a new run",
    ):
        CudaCapturer(torch.device("cpu")).capture(fails)


def test_waits_for_the_device_are_noticed_in_the_rehearsal_that_has_them(monkeypatch) -> None:
    played = Played(monkeypatch)
    capturer = CudaCapturer(torch.device("cpu"))

    def waits() -> int:
        assert played.mode == "warn"
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return 5

    assert capturer.warm_up(waits) == 5
    assert capturer.obstacle == "it makes the host wait for the device"
    assert played.mode == 0
    with pytest.warns(UserWarning, match="something else") as others:
        capturer.warm_up(lambda: warnings.warn("something else", stacklevel=1))
    assert len(others) == 1
    assert capturer.obstacle == ""


def test_the_debug_mode_is_put_back_after_an_error(monkeypatch) -> None:
    played = Played(monkeypatch)
    with pytest.raises(RuntimeError):
        CudaCapturer(torch.device("cpu")).warm_up(fails)
    assert played.mode == 0


def test_cudnn_tries_algorithms_for_steps_alone(monkeypatch) -> None:
    Played(monkeypatch)
    capturer = CudaCapturer(torch.device("cpu"))
    assert capturer.warm_up(lambda: torch.backends.cudnn.benchmark)
    assert capturer.capture(lambda: torch.backends.cudnn.benchmark)[1]
    assert not torch.backends.cudnn.benchmark
    with pytest.raises(RuntimeError):
        capturer.capture(fails)
    assert not torch.backends.cudnn.benchmark
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    assert not capturer.warm_up(lambda: torch.backends.cudnn.benchmark)
