"""How often a network is right: on clean images, under each attack, and under the worst of them for each image.

Noise belongs to the image, not to the batch, so the figures do not depend on the batch size, on the other attacks, or on
how many processes share the images.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from sparring import ranks
from sparring.attacks import Attack, Capacity, Pool, Probe, Search, Subjects, attackable, named
from sparring.data import Images, batches
from sparring.errors import BadInput
from sparring.evaluation.course import Bookmark, Course, Stage, fingerprint
from sparring.evaluation.network import Precision, full_precision, low_precision, quickened
from sparring.models import may_be_channels_last
from sparring.randomness import SampleStreams, seed_from
from sparring.threat import Threat

CLEAN = "clean"
Tick = Callable[[str, float], None]  # attack, or attack and search, and the fraction of it that is done
_PATIENCE = {"cpu": 1, "cuda": 10}  # turns between two looks at what was found: on a GPU each makes the host wait


def silent(attack: str, done: float) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Outcome:
    """One attack's result."""

    attack: str
    correct: Tensor  # (N,) bool, on the CPU: classified correctly whatever this attack tried
    seconds: float
    settings: dict[str, str | int]  # step size, steps, start, restarts; empty for clean
    stages: tuple[Stage, ...] = ()  # the searches that the attack consists of; none for clean
    images: Tensor | None = None  # (N, C, H, W) in [0, 1], where asked for: adversarial where not correct

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
        return self.outcome(attack).accuracy

    def outcome(self, attack: str) -> Outcome:
        """The result of one of the attacks; raises KeyError if it was not run."""
        return {outcome.attack: outcome for outcome in self.outcomes}[attack]


@dataclass(frozen=True)
class Examination:
    """A network, the images it is examined on, and what the adversary may do.

    Several processes (`torch.distributed`) share the images, and all of them get the whole result.

    Args:
        model: returns logits (B, K) of images in [0, 1]; its modes are left as they were.
        images: the split; an image's noise is a function of its index in it.
        threat: what the adversary may do.
        batch_size: images at a time, fewer where they do not fit into memory; no figure depends on it.
        device: where the model is.
        seed: of the attacks' random starts.
        precision: exact searches in single precision, search16 in 16 bits, both on a quickened copy of the network, and
            the network itself confirms every success in single precision; None searches the network as it is.
        keep: whether the outcomes hold the adversarial images.
    """

    model: nn.Module
    images: Images
    threat: Threat
    batch_size: int = 256
    device: torch.device | str = "cpu"
    seed: int = 0
    precision: Precision | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise BadInput("There are no images to evaluate on: give at least one.")

    def run(self, attacks: Sequence[str], tick: Tick = silent, bookmark: Bookmark | None = None) -> Evaluation:
        """Accuracy under each of the named attacks, `clean` among them.

        An attack is run on the images that are classified correctly to begin with; the others count as wrong. `tick` is
        told of progress. With a bookmark the examination goes on where an earlier process was stopped; the caller removes
        the bookmark once the result is safe. Raises BadInput for an unknown attack, before anything is computed, for attacks
        that need more classes, and for a network whose logits are not numbers.
        """
        chosen = {name: None if name == CLEAN else named(name) for name in dict.fromkeys(attacks)}
        return _Examiner(self, tick, bookmark).examine(chosen)

    def under(self, attacks: Sequence[Attack]) -> Evaluation:
        """Accuracy on clean images and under each of these attacks, which are called by their numbers from 1."""
        chosen: dict[str, Attack | None] = {CLEAN: None}
        chosen |= {str(number): attack for number, attack in enumerate(attacks, 1)}
        return _Examiner(self, silent, None).examine(chosen)

    def bookmark(self, path: Path, attacks: Sequence[str]) -> Bookmark:
        """Where to keep this examination by these attacks while it runs, beside the file `path`."""
        pixels = hashlib.sha256(self.images.pixels.numpy().tobytes()).hexdigest()
        said = [str(value) for value in (self.threat, self.seed, self.precision, self.keep, list(attacks))]
        labels = [str(value.tolist()) for value in (self.images.labels, self.images.index)]
        return Bookmark(path, fingerprint(self.model, pixels, *labels, *said))


class _Examiner:
    """Runs the searches of an examination one after the other."""

    def __init__(self, examination: Examination, tick: Tick, bookmark: Bookmark | None) -> None:
        self._examination, self._tick, self._bookmark = examination, tick, bookmark
        self._course = bookmark.read() if bookmark else Course()
        self._capacity = Capacity(examination.batch_size)
        count = len(examination.images)
        self._mine = torch.zeros(count, dtype=torch.bool)  # this process's share of the images
        self._mine[ranks.index() :: ranks.count()] = True
        self._judge = Probe(examination.model)

    def examine(self, chosen: Mapping[str, Attack | None]) -> Evaluation:
        exact = full_precision() if self._examination.precision else nullcontext()
        with exact, attackable(self._examination.model, "eval"):
            self._look_at_clean_images()
            for attack in chosen.values():
                self._check(attack)
            for name, attack in chosen.items():
                if attack is not None:
                    self._attack(name, attack)
        return Evaluation(tuple(self._outcome(name, attack) for name, attack in chosen.items()))

    def _look_at_clean_images(self) -> None:
        if self._course.clean is not None:
            return
        began = time.perf_counter()
        rows, parts = self._mine.nonzero()[:, 0], []
        while len(rows):
            now = rows[: self._capacity.rows]
            try:
                parts.append(self._judge.logits(self._fetch(now)[0]).cpu())
            except RuntimeError as error:
                self._capacity.shrink(error)
                continue
            rows = rows[len(now) :]
            self._tick(CLEAN, 1 - len(rows) / len(self._mine))
        logits = torch.cat(parts) if parts else self._judge.logits(self._fetch(torch.arange(1))[0]).cpu()[:0]
        if bool(logits.isnan().any()):
            raise BadInput("The model returned NaN logits on clean images: an accuracy would mean nothing.")
        self._course.clean = logits.new_zeros(len(self._mine), logits.shape[1])
        self._course.clean[self._mine] = logits
        self._course.clean_seconds = time.perf_counter() - began
        self._save()

    def _check(self, attack: Attack | None) -> None:
        """BadInput now, not hours later, for what cannot be run on so few classes."""
        assert self._course.clean is not None
        classes = self._course.clean.shape[1]
        for search in attack.searches(classes).values() if attack is not None else ():
            search.attempts(classes)

    def _attack(self, name: str, attack: Attack) -> None:
        """The attack's searches that are not done yet."""
        assert self._course.clean is not None
        for search_name, search in attack.searches(self._course.clean.shape[1]).items():
            done = [stage for stage in self._course.stages if stage.attack == name]
            if search_name in [stage.name for stage in done]:
                continue
            self._search(name, search_name, search, done[-1].correct if done else self._clean_correct)

    def _search(self, attack: str, name: str, search: Search, correct: Tensor) -> None:
        course, device = self._course, torch.device(self._examination.device)
        assert course.clean is not None
        if self._examination.keep and attack not in course.images:
            every = torch.arange(len(self._mine))
            course.images[attack] = self._fetch(every, "cpu")[0]
        seed = seed_from(self._examination.seed, *attack.encode(), *name.encode())
        pool = Pool(
            search,
            Subjects(self._fetch, course.clean, SampleStreams(seed, self._examination.images.index)),
            self._examination.threat,
            self._probe,
            self._judge,
            correct.nonzero()[:, 0],
            self._capacity,
            _PATIENCE.get(device.type, 1),
            course.images.get(attack),
        )
        if course.running:
            pool.restore(course.running, device)
        settings = search.describe(self._examination.threat)
        clock = _Clock(course.spent, self._probe, self._judge)
        for done in pool.run():
            self._tick(f"{attack} {name}".strip(), done)
            if self._bookmark and self._bookmark.due:
                course.running, course.spent = pool.state(), clock.spent
                self._save()
        self._tick(f"{attack} {name}".strip(), 1.0)
        course.stages.append(Stage(attack, name, correct & ~pool.fooled, *clock.spent, settings))
        course.running, course.spent = {}, (0.0, 0, 0)
        if self._bookmark:
            self._bookmark.write(course)

    def _save(self) -> None:
        if self._bookmark and self._bookmark.due:
            self._bookmark.write(self._course)

    def _outcome(self, name: str, attack: Attack | None) -> Outcome:
        """The result of all processes together."""
        course = self._course
        if attack is None:
            return Outcome(name, self._together(self._clean_correct), course.clean_seconds, {})
        stages = tuple(
            replace(
                stage,
                correct=self._together(stage.correct),
                forwards=int(self._sum(torch.tensor(stage.forwards))),
                backwards=int(self._sum(torch.tensor(stage.backwards))),
            )
            for stage in course.stages
            if stage.attack == name
        )
        images = course.images.get(name)
        if images is not None:
            images = self._sum(torch.where(self._mine.view(-1, 1, 1, 1), images, 0))
        settings = attack.describe(self._examination.threat)
        return Outcome(name, stages[-1].correct, sum(stage.seconds for stage in stages), settings, stages, images)

    def _together(self, correct: Tensor) -> Tensor:
        return self._sum(correct.to(torch.int32)) > 0

    def _sum(self, value: Tensor) -> Tensor:
        return ranks.total(value.to(self._examination.device)).cpu()

    @cached_property
    def _clean_correct(self) -> Tensor:
        """(N,) bool; False for the images of other processes."""
        assert self._course.clean is not None
        return (self._course.clean.argmax(1) == self._examination.images.labels) & self._mine

    @cached_property
    def _probe(self) -> Probe:
        """What the searches ask."""
        precision, device = self._examination.precision, self._examination.device
        if precision is None:
            return Probe(self._examination.model)
        network = quickened(self._examination.model, self._fetch(torch.arange(min(2, len(self._mine))))[0])
        layout = torch.channels_last if may_be_channels_last(network, device) else None
        return Probe(network, low_precision(device) if precision == "search16" else None, layout)

    def _fetch(self, rows: Tensor, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        device = self._examination.device if device is None else device
        batch = next(batches(self._examination.images.subset(rows), len(rows), device))
        return batch.x, batch.y


class _Clock:
    """What a search has cost, with what it had cost before its process was replaced."""

    def __init__(self, before: tuple[float, int, int], *probes: Probe) -> None:
        self._before, self._probes = before, set(probes)
        self._began = time.perf_counter(), *self._count()

    @property
    def spent(self) -> tuple[float, int, int]:
        """Seconds, forwards and backwards."""
        now = time.perf_counter(), *self._count()
        seconds, forwards, backwards = (
            before + end - start for before, end, start in zip(self._before, now, self._began, strict=True)
        )
        return float(seconds), int(forwards), int(backwards)

    def _count(self) -> tuple[int, int]:
        return sum(probe.forwards for probe in self._probes), sum(probe.backwards for probe in self._probes)
