"""How far an evaluation has come, kept in a file beside its record, so that it survives its process."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparring import ranks
from sparring.evaluation.outcome import Stage
from sparring.files import replacing
from sparring.models.weights import checksum, tensor_bytes

_NOTES = "course"  # the key of what is no tensor; files of earlier versions have it
_CHECKSUM = "sha256"  # the key of that of all the rest


@dataclass
class Progress:
    """How far an evaluation has come."""

    clean: Tensor | None = None  # (N, K), logits of the unperturbed images
    clean_seconds: float = 0.0
    stages: list[Stage] = field(default_factory=list)
    running: dict[str, Tensor] = field(default_factory=dict)  # the present search, as `Pool.state` gives it
    spent: tuple[float, int, int] = (0.0, 0, 0)  # on it: seconds, forwards, backwards
    images: dict[str, Tensor] = field(default_factory=dict)  # by attack, (N, C, H, W)
    random: dict[str, Tensor] = field(default_factory=dict)  # states of PyTorch's default generators; none at first

    @contextmanager
    def continued_draws(self) -> Iterator[None]:
        """Let the default generators go on from where they were; on leaving, put the caller's states back.

        Networks may draw from them, though no search does. Where there is nothing to go on from they are left alone.
        """
        if not self.random:
            yield
            return
        before = _random_state()
        _set_random_state(self.random)
        try:
            yield
        finally:
            _set_random_state(before)


class Checkpoint:
    """Keeps progress in a file beside `path`: written after each attack's search and, within one, every so many seconds.

    The file's name contains the question's fingerprint, so that no evaluation goes on from another one's checkpoint. Each
    process has its own.
    """

    def __init__(self, path: Path, question: str, every: float = 30.0) -> None:
        share = f"-{ranks.index()}of{ranks.count()}" if ranks.count() > 1 else ""
        self.path = path.with_name(f".{path.name}.{question[:12]}{share}.partial")
        self._every, self._last = every, time.monotonic()

    def read(self) -> Progress:
        """Return the progress so far, which is none where the file cannot be read or was damaged."""
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (FileNotFoundError, SafetensorError):
            return Progress()
        text = metadata.get(_NOTES, "")
        if metadata.get(_CHECKSUM) not in (None, checksum(tensors, text)):  # earlier versions wrote none
            return Progress()
        notes = json.loads(text)
        return Progress(
            tensors["clean"],
            notes["clean_seconds"],
            [Stage(correct=tensors[f"correct.{place}"], **stage) for place, stage in enumerate(notes["stages"])],
            _part(tensors, "running."),
            tuple(notes["spent"]),
            _part(tensors, "images."),
            _part(tensors, "random."),
        )

    @property
    def due(self) -> bool:
        """Whether the last writing lies long enough behind."""
        return time.monotonic() - self._last >= self._every

    def write(self, progress: Progress) -> None:
        """Replace what is on disk."""
        assert progress.clean is not None
        stages = [
            {
                "attack": stage.attack,
                "name": stage.name,
                "seconds": stage.seconds,
                "forwards": stage.forwards,
                "backwards": stage.backwards,
                "settings": stage.settings,
                "retried": stage.retried,
                "confirmed": stage.confirmed,
            }
            for stage in progress.stages
        ]
        text = json.dumps({"clean_seconds": progress.clean_seconds, "stages": stages, "spent": progress.spent})
        tensors = {"clean": progress.clean}
        tensors |= {f"correct.{place}": stage.correct for place, stage in enumerate(progress.stages)}
        tensors |= {f"running.{name}": value for name, value in progress.running.items()}
        tensors |= {f"images.{name}": value for name, value in progress.images.items()}
        tensors |= {f"random.{name}": value for name, value in _random_state().items()}
        # A clone of each: safetensors refuses tensors that share memory, as an attempt's start and best point may.
        whole = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
        }
        with replacing(self.path) as temporary:
            save_file(whole, temporary, metadata={_NOTES: text, _CHECKSUM: checksum(whole, text)})
        self._last = time.monotonic()

    def remove(self) -> None:
        """Delete the file: the result is safe."""
        self.path.unlink(missing_ok=True)


def fingerprint(model: nn.Module, *parts: str) -> str:
    """Return hexadecimal digits that stand for the model's structure and weights and for some texts."""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        # Quantised layers and `get_extra_state` put other things beside tensors.
        whole = isinstance(value, Tensor) and not value.is_quantized
        digest.update(tensor_bytes(value) if whole else repr(value).encode())
    for part in parts:
        digest.update(f"\0{part}".encode())
    return digest.hexdigest()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
