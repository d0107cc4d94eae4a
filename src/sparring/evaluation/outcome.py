"""What attacks found: the verdict on every image after each of them, and what it cost to reach it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.errors import BadInput, some

CLEAN = "clean"
OnProgress = Callable[[str, float], None]  # attack, or attack and search, and the fraction of it that is done


def silent(attack: str, done: float) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Stage:
    """One search of an attack, finished."""

    attack: str
    name: str  # of the search; empty where the attack is a single one
    correct: Tensor = field(
        repr=False
    )  # (N,) bool, on the CPU: correct after this search and all before it in the attack
    seconds: float
    forwards: int  # images that went through the network, the verifier's included
    backwards: int  # gradients to the pixels, of one image each
    settings: dict[str, str | int] = field(default_factory=dict)  # what a record must state of the search
    retried: int = 0  # of the images that it did not fool: those that it was tried on again, on the network itself
    confirmed: int = 0  # of these, the ones that it did not fool there either

    @property
    def accuracy(self) -> float:
        """The fraction of images that were still correct after this search."""
        return int(self.correct.sum()) / len(self.correct)


@dataclass(frozen=True)
class Outcome:
    """One attack's result."""

    attack: str
    correct: Tensor = field(repr=False)  # (N,) bool, on the CPU: classified correctly whatever this attack tried
    seconds: float
    settings: dict[str, str | int]  # step size, steps, start, restarts; empty for clean
    stages: tuple[Stage, ...] = ()  # the searches that the attack consists of; none for clean and for plain functions
    images: Tensor | None = field(
        default=None, repr=False
    )  # (N, C, H, W) in [0, 1], where asked for: adversarial where not correct

    @property
    def accuracy(self) -> float:
        """The fraction of images that stayed correct."""
        return int(self.correct.sum()) / len(self.correct)


@dataclass(frozen=True, repr=False)
class Outcomes:
    """The results of several attacks on the same images; printed, a line for each."""

    outcomes: tuple[Outcome, ...]
    form: str = ""  # of the network that searches ran, such as "BatchNorm folded, NHWC"; empty where none was run

    def __repr__(self) -> str:
        """Return the accuracies, in percent."""
        each = [f"{outcome.attack}: {100 * outcome.accuracy:.2f}%" for outcome in self.outcomes]
        return "\n".join([*each, f"worst: {100 * self.worst:.2f}% of {len(self.outcomes[0].correct)} images"])

    @property
    def worst(self) -> float:
        """The fraction of images that stayed correct under every attack."""
        survivors = torch.stack([outcome.correct for outcome in self.outcomes]).all(0)
        return int(survivors.sum()) / len(survivors)

    def accuracy(self, attack: str) -> float:
        """Return the accuracy under one of the attacks; raises BadInput if it was not run."""
        return self.outcome(attack).accuracy

    def outcome(self, attack: str) -> Outcome:
        """Return the result of one of the attacks; raises BadInput if it was not run."""
        found = {outcome.attack: outcome for outcome in self.outcomes}
        if attack not in found:
            raise BadInput(f"{attack} was not run: there are {some(list(found))}.")
        return found[attack]
