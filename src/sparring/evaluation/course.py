"""The course of an examination: what is done and where the present search stands, so that it survives its process."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparring import ranks
from sparring.files import replacing


@dataclass(frozen=True)
class Stage:
    """One search of an attack, finished."""

    attack: str
    name: str  # of the search; empty where the attack is a single one
    correct: Tensor  # (N,) bool, on the CPU: correct after this search and all before it in the attack
    seconds: float
    forwards: int  # images that went through the network, the judge's included
    backwards: int  # gradients to the pixels, of one image each
    settings: dict[str, str | int] = field(default_factory=dict)  # what a record must state of the search

    @property
    def accuracy(self) -> float:
        """The fraction of images that were still correct after this search."""
        return int(self.correct.sum()) / len(self.correct)


@dataclass
class Course:
    """How far an examination has come."""

    clean: Tensor | None = None  # (N, K), logits of the unperturbed images
    clean_seconds: float = 0.0
    stages: list[Stage] = field(default_factory=list)
    running: dict[str, Tensor] = field(default_factory=dict)  # the present search, as `Pool.state` gives it
    spent: tuple[float, int, int] = (0.0, 0, 0)  # on it: seconds, forwards, backwards
    images: dict[str, Tensor] = field(default_factory=dict)  # by attack, (N, C, H, W)


class Bookmark:
    """Keeps a course in a file beside `path`: written after each search and, within one, every so many seconds.

    The file's name contains the question's fingerprint, so that no evaluation goes on from another one's course. Each
    process has its own.
    """

    def __init__(self, path: Path, question: str, every: float = 30.0) -> None:
        share = f"-{ranks.index()}of{ranks.count()}" if ranks.count() > 1 else ""
        self.path = path.with_name(f".{path.name}.{question[:12]}{share}.partial")
        self._every, self._last = every, time.monotonic()

    def read(self) -> Course:
        """The course so far, or one at its beginning. A file that cannot be read counts as none."""
        try:
            with safe_open(self.path, framework="pt") as file:
                notes = json.loads(file.metadata()["course"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (FileNotFoundError, SafetensorError):
            return Course()
        _set_random_state(_part(tensors, "random."))
        return Course(
            tensors["clean"],
            notes["clean_seconds"],
            [Stage(correct=tensors[f"correct.{place}"], **stage) for place, stage in enumerate(notes["stages"])],
            _part(tensors, "running."),
            tuple(notes["spent"]),
            _part(tensors, "images."),
        )

    @property
    def due(self) -> bool:
        """Whether the last writing lies long enough behind."""
        return time.monotonic() - self._last >= self._every

    def write(self, course: Course) -> None:
        """Replaces what is on disk."""
        assert course.clean is not None
        stages = [
            {
                "attack": stage.attack,
                "name": stage.name,
                "seconds": stage.seconds,
                "forwards": stage.forwards,
                "backwards": stage.backwards,
                "settings": stage.settings,
            }
            for stage in course.stages
        ]
        notes = {"clean_seconds": course.clean_seconds, "stages": stages, "spent": course.spent}
        tensors = {"clean": course.clean}
        tensors |= {f"correct.{place}": stage.correct for place, stage in enumerate(course.stages)}
        tensors |= {f"running.{name}": value for name, value in course.running.items()}
        tensors |= {f"images.{name}": value for name, value in course.images.items()}
        tensors |= {f"random.{name}": value for name, value in _random_state().items()}
        # A clone of each: safetensors refuses tensors that share memory, as an attempt's start and best point may.
        whole = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
        }
        with replacing(self.path) as temporary:
            save_file(whole, temporary, metadata={"course": json.dumps(notes)})
        self._last = time.monotonic()

    def remove(self) -> None:
        """The examination's result is safe."""
        self.path.unlink(missing_ok=True)


def fingerprint(model: nn.Module, *parts: str) -> str:
    """A number, in hexadecimal, that stands for the model's structure and weights and for some texts."""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for part in parts:
        digest.update(f"\0{part}".encode())
    return digest.hexdigest()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _random_state() -> dict[str, Tensor]:
    """Of PyTorch's default generators: networks may draw from them, though no search does."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
