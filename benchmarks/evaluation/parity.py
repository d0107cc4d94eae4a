"""AutoAttack on both sides of the comparison in `compare.py`: pyautoattack and ours, on the same network and images.

pyautoattack runs its standard version, one stage at a time on the images that the stages before left correct, as it
would by itself, so that what every stage leaves is known image by image. Its checks of the network and its count of
clean accuracy, which it would repeat, are left out of its seconds and passes.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyautoattack
import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.attacks import Attack, Search
from sparring.attacks.apgd import SparseAPGD
from sparring.attacks.autoattack import AutoAttack
from sparring.attacks.square import Square
from sparring.data import Batch, Images, batches
from sparring.evaluation import Evaluator, Precision, Stage
from sparring.precision import full_precision
from sparring.threat import Threat

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")


@dataclass(frozen=True)
class Scale:
    """How long both sides search; None is as long as AutoAttack's standard version."""

    steps: int | None = None  # of APGD and of FAB, for every target
    queries: int | None = None  # of Square


@dataclass(frozen=True)
class Question:
    """What both sides are asked: how many of these images can be perturbed so that the network errs?"""

    model: nn.Module  # in evaluation mode, on the device
    images: Images
    threat: Threat
    batch_size: int
    device: str
    seed: int
    scale: Scale

    def batches(self) -> Iterator[Batch]:
        """Yield the images, in order, on the device."""
        return batches(self.images, self.batch_size, self.device)

    def whole(self) -> Batch:
        """Return all images at once, on the CPU."""
        return next(batches(self.images, len(self.images), "cpu"))


@dataclass(frozen=True)
class Answer:
    """What one side found."""

    clean: Tensor  # (N,) bool, correct to begin with
    stages: tuple[Stage, ...]
    images: Tensor  # (N, C, H, W), adversarial where the network was fooled
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def robust(self) -> Tensor:
        """Which images no attack fooled: (N,) bool."""
        return self.stages[-1].correct

    @property
    def fooled(self) -> Tensor:
        """Which images were correct until they were attacked: (N,) bool."""
        return self.clean & ~self.robust


@dataclass(frozen=True)
class Standard(Attack):
    """AutoAttack's standard version, perhaps with less scale."""

    scale: Scale

    @override
    def searches(self, classes: int, threat: Threat) -> Mapping[str, Search]:
        return {name: self._limited(search) for name, search in AutoAttack().searches(classes, threat).items()}

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:
        return AutoAttack().describe(threat)

    def _limited(self, search: Search) -> Search:
        if isinstance(search, SparseAPGD):
            return replace(search, settings=self._limited(search.settings))
        name, scale = ("queries", self.scale.queries) if isinstance(search, Square) else ("steps", self.scale.steps)
        return search if scale is None else replace(search, **{name: scale})


def ours(question: Question, precision: Precision) -> Answer:
    """Return our AutoAttack; its seconds are those of everything, from the clean images to the last stage."""
    evaluator = Evaluator(
        question.model,
        question.images,
        question.threat,
        question.batch_size,
        question.device,
        question.seed,
        precision,
        keep=True,
    )
    began = time.perf_counter()
    clean, attacked = evaluator.under([Standard(question.scale)]).outcomes
    seconds = time.perf_counter() - began
    assert attacked.images is not None
    return Answer(clean.correct, attacked.stages, attacked.images, seconds)


def theirs(question: Question) -> Answer:
    """Return pyautoattack's standard version, in single precision that is single; its seconds are those of its stages."""
    counted = Counted(question.model)
    attack = pyautoattack.AutoAttack(
        counted,
        norm=question.threat.norm,
        eps=float(question.threat.eps),
        version="standard",
        seed=question.seed,
        device=question.device,
    )
    _limit(attack, question.scale)
    batch = question.whole()
    correct = clean = correct_on(question, batch.x)
    images, stages = batch.x.clone(), []
    with full_precision(), _listening(counted) as log:
        for name in STAGES:
            rows, correct = correct.nonzero()[:, 0], correct.clone()
            log.restart()
            if len(rows):
                attack.attacks_to_run = [name]
                x, y = batch.x[rows], batch.y[rows]
                images[rows], predicted = attack.run_standard_evaluation(x, y, batch_size=question.batch_size)
                correct[rows] = predicted == y
            stages.append(Stage("pyautoattack", name, correct, *log.spent))
    return Answer(
        clean, tuple(stages), images, sum(stage.seconds for stage in stages), tuple(dict.fromkeys(log.warned))
    )


def _limit(attack: pyautoattack.AutoAttack, scale: Scale) -> None:
    """Give pyautoattack's attacks this scale, and APGD the checkpoints that belong to so many steps."""
    if scale.steps is not None:
        for apgd in (attack.apgd, attack.apgd_targeted):
            apgd.n_iter = apgd.n_iter_orig = scale.steps
            apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (
                max(int(share * scale.steps), 1) for share in (0.22, 0.06, 0.03)
            )
        attack.fab.n_iter = scale.steps
    if scale.queries is not None:
        attack.square.n_queries = scale.queries


class Counted(nn.Module):
    """A network that counts the images that go through it, and the gradients that come back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, C, H, W)."""
        self.forwards += len(x)
        logits: Tensor = self._network(x)
        if logits.requires_grad:
            logits.register_hook(self._returned)
        return logits

    def _returned(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class _Log(logging.Handler):
    """Learns from what pyautoattack logs when an attack begins and ends, and what it warns of."""

    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self._counted = counted
        self.warned: list[str] = []
        self.restart()

    def restart(self) -> None:
        """Start with nothing spent."""
        self._began = self._ended = self._now()

    @property
    def spent(self) -> tuple[float, int, int]:
        """Seconds, forwards and backwards of the attack, without what precedes it."""
        seconds, forwards, backwards = (end - start for start, end in zip(self._began, self._ended, strict=True))
        return float(seconds), int(forwards), int(backwards)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            self.warned.append(message)
        elif message.startswith("running "):
            self._began = self._now()
        elif message.startswith("robust accuracy after "):  # this reads the device, which has finished then
            self._ended = self._now()

    def _now(self) -> tuple[float, int, int]:
        return time.perf_counter(), self._counted.forwards, self._counted.backwards


@contextmanager
def _listening(counted: Counted) -> Iterator[_Log]:
    """Keep pyautoattack's log inside; put the process's trace function back, which it removes."""
    logger, log, tracer = logging.getLogger("auto-attack"), _Log(counted), sys.gettrace()
    before = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(log)
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.level, logger.propagate = before
        sys.settrace(tracer)


@torch.no_grad()
def correct_on(question: Question, images: Tensor) -> Tensor:
    """Return which images (N, C, H, W) on the CPU the plain network classifies correctly in single precision: (N,) bool."""
    with full_precision():
        parts = zip(images.split(question.batch_size), question.batches(), strict=True)
        return torch.cat([(question.model(x.to(batch.y.device)).argmax(1) == batch.y).cpu() for x, batch in parts])


def within(threat: Threat, adversarial: Tensor, x: Tensor) -> Tensor:
    """Return which images (N, C, H, W) lie within the radius around x, but for rounding, and in the box: (N,) bool."""
    boxed = ((adversarial >= 0) & (adversarial <= 1)).flatten(1).all(1)
    allowed = threat.eps + threat.geometry.rounding(x[0].numel())
    return boxed & (threat.size(adversarial.double() - x.double()) <= allowed)


def confirmed(question: Question, answer: Answer) -> int:
    """Return how many of the images that fooled the network do: they are misclassified, within the radius and in the box."""
    allowed = within(question.threat, answer.images, question.whole().x)
    return int((answer.fooled & allowed & ~correct_on(question, answer.images)).sum())


def noted(question: Question, answer: Answer) -> dict[str, Any]:
    """Return an answer as plain values: accuracies are fractions; who was correct is in bits, the
    first image's the highest.
    """
    return {
        "clean": share(answer.clean),
        "stages": [
            {
                "name": stage.name,
                "accuracy": share(stage.correct),
                "seconds": round(stage.seconds, 3),
                "forwards": stage.forwards,
                "backwards": stage.backwards,
                "correct": np.packbits(stage.correct.numpy()).tobytes().hex(),
            }
            for stage in answer.stages
        ],
        "seconds": round(answer.seconds, 3),
        "fooled": int(answer.fooled.sum()),
        "confirmed": confirmed(question, answer),
        "warnings": list(answer.warnings),
    }


def alone(one: Answer, other: Answer) -> dict[str, list[int]]:
    """Return the rows of the images that only one of two answers calls robust, by who fooled the network alone."""
    return {
        "fooled_by_first_alone": (other.robust & ~one.robust).nonzero()[:, 0].tolist(),
        "fooled_by_second_alone": (one.robust & ~other.robust).nonzero()[:, 0].tolist(),
    }


def share(correct: Tensor) -> float:
    """Return the accuracy on the images (N,)."""
    return int(correct.sum()) / len(correct)
