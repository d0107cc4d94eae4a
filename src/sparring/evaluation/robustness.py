"""How often a network is right: on clean images, under each attack, and under the worst of them for each image.

Noise belongs to the sample, not to the batch, so the figures do not depend on the batch size or on the other attacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, attackable, named
from sparring.data import Images, batches
from sparring.randomness import SampleStreams, seed_from
from sparring.threat import Threat

CLEAN = "clean"
Tick = Callable[[str, int], None]  # attack, number of images just done


def silent(attack: str, images: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Outcome:
    """One attack's result."""

    attack: str
    correct: Tensor  # (N,) bool, on the CPU: classified correctly whatever this attack tried
    seconds: float
    settings: dict[str, str | int]  # step size, steps, start, restarts; empty for clean

    @property
    def accuracy(self) -> float:
        """The fraction of images that stayed correct."""
        return int(self.correct.sum()) / len(self.correct)


@dataclass(frozen=True)
class Evaluation:
    """The results of several attacks on the same images."""

    outcomes: tuple[Outcome, ...]

    @property
    def worst(self) -> float:
        """The fraction of images that stayed correct under every attack."""
        survivors = torch.stack([outcome.correct for outcome in self.outcomes]).all(0)
        return int(survivors.sum()) / len(survivors)

    def accuracy(self, attack: str) -> float:
        """The accuracy under one of the attacks; raises KeyError if it was not run."""
        return {outcome.attack: outcome.accuracy for outcome in self.outcomes}[attack]


@dataclass(frozen=True)
class Examination:
    """A network, the images it is examined on, and what the adversary may do.

    Args:
        model: returns logits (B, K) of images in [0, 1]; its modes are left as they were.
        images: the split; an image's noise is a function of its index in it.
        threat: what the adversary may do.
        batch_size: images at a time; no figure depends on it.
        device: where the model is.
        seed: of the attacks' random starts.
    """

    model: nn.Module
    images: Images
    threat: Threat
    batch_size: int = 256
    device: torch.device | str = "cpu"
    seed: int = 0

    def run(self, attacks: Sequence[str], tick: Tick = silent) -> Evaluation:
        """Accuracy under each of the named attacks, `clean` among them.

        An attack is run on the images that are classified correctly to begin with; the others count as wrong. `tick` is
        told of every batch. Raises BadInput for an unknown attack, before anything is computed.
        """
        chosen = {name: None if name == CLEAN else named(name) for name in dict.fromkeys(attacks)}
        return self._examine(chosen, tick)

    def under(self, attacks: Sequence[Attack]) -> Evaluation:
        """Accuracy on clean images and under each of these attacks, which are called by their numbers from 1."""
        return self._examine({CLEAN: None} | {str(number): attack for number, attack in enumerate(attacks, 1)}, silent)

    def _examine(self, chosen: Mapping[str, Attack | None], tick: Tick) -> Evaluation:
        clean = self._clean(tick)
        return Evaluation(
            tuple(
                clean if attack is None else self._under(name, attack, clean, tick) for name, attack in chosen.items()
            )
        )

    def _clean(self, tick: Tick) -> Outcome:
        began = time.perf_counter()
        correct = []
        for batch in batches(self.images, self.batch_size, self.device):
            correct.append(self._correct(batch.x, batch.y))
            tick(CLEAN, len(batch.y))
        return Outcome(CLEAN, torch.cat(correct).cpu(), time.perf_counter() - began, {})

    def _under(self, name: str, attack: Attack, clean: Outcome, tick: Tick) -> Outcome:
        began = time.perf_counter()
        correct = clean.correct.clone()
        streams = SampleStreams(seed_from(self.seed, *name.encode()), torch.empty(0))
        tick(name, int((~correct).sum()))  # wrong already, nothing to attack
        rows, done = correct.nonzero()[:, 0], 0
        for batch in batches(self.images.subset(rows), self.batch_size, self.device):
            adversarial = attack(
                self.model, batch.x, batch.y, self.threat, generator=replace(streams, index=batch.index)
            )
            correct[rows[done : done + len(batch.y)]] = self._correct(adversarial, batch.y).cpu()
            done += len(batch.y)
            tick(name, len(batch.y))
        return Outcome(name, correct, time.perf_counter() - began, attack.describe(self.threat))

    @torch.no_grad()
    def _correct(self, x: Tensor, y: Tensor) -> Tensor:
        with attackable(self.model, "eval"):
            return self.model(x).argmax(1) == y
