"""A recipe trained step by step, for benchmarks that look at the method and the network in between."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import torch

import sparring
from command import status
from sparring.data import Batch, Images, Resident, Splits, batches, load
from sparring.evaluation import Evaluator
from sparring.learner import Learner
from sparring.methods import Method, Task
from sparring.models import create
from sparring.randomness import seed_from
from sparring.training import Step, train_step
from sparring.training.level import Plan


@dataclass
class Bench:
    """A method, a learner and their data on the CPU; the same as `sparring train` would put together."""

    experiment: sparring.Experiment
    splits: Splits
    learner: Learner

    @classmethod
    def of(cls, experiment: sparring.Experiment) -> Bench:
        """The parts of an experiment, the method set up."""
        splits = load(experiment.data)
        channels, height, width = splits.train.pixels.shape[1:]
        torch.manual_seed(experiment.seed)
        network = create(
            experiment.model.name,
            len(splits.classes),
            channels=channels,
            size=(height, width),
            width=experiment.model.width,
            levels=experiment.model.levels,
        )
        runtime, options = experiment.runtime, experiment.optimisation
        bench = cls(experiment, splits, Learner(runtime.arrange(network), options, runtime.fabric(), total=1))
        bench.learner.total = options.epochs * bench.data().steps_per_epoch * bench.method.replays
        bench.method.setup(bench.task)
        return bench

    @property
    def task(self) -> Task:
        """What the method may know."""
        experiment, images = self.experiment, self.splits.train
        channels, height, width = images.pixels.shape[1:]
        pad = experiment.data.augment.pad
        return Task(
            threat=experiment.threat,
            samples=len(images),
            shape=(channels, height, width),
            canvas=(channels, height + 2 * pad, width + 2 * pad),
            classes=len(self.splits.classes),
            batch_size=experiment.optimisation.batch_size,
            epochs=experiment.optimisation.epochs,
            device=torch.device("cpu"),
            seed=experiment.seed,
            compact=experiment.runtime.compacts(torch.device("cpu"), Plan()),
            optimizer=experiment.optimisation.optimizer,
            held_out=len(self.splits.validation),
        )

    @property
    def method(self) -> Method:
        """What is being trained with."""
        return self.experiment.method

    def data(self) -> Resident:
        """The training images, epoch by epoch."""
        options = self.experiment.optimisation
        return Resident(
            self.splits.train, self.experiment.data.augment, options.batch_size, self.experiment.seed, device="cpu"
        )

    def epochs(self) -> Iterator[int]:
        """Train one epoch after the other; stops in between to hand out its number."""
        data = self.data()
        for epoch in range(self.experiment.optimisation.epochs):
            self.method.begin_epoch(epoch)
            self.learner.network.train()
            for batch in data.epoch(epoch):
                self.step(batch)
            yield epoch

    def step(self, batch: Batch) -> Step:
        """One training step, as random as its number."""
        torch.manual_seed(seed_from(self.experiment.seed, self.learner.steps))
        return train_step(self.method, self.learner, batch)

    def accuracies(self, attacks: tuple[str, ...]) -> dict[str, float]:
        """On the test images."""
        evaluator = Evaluator(self.learner.judged, self.splits.test, self.experiment.threat, 256, "cpu", 0)
        evaluation = evaluator.run(attacks)
        return {attack: round(evaluation.accuracy(attack), 4) for attack in attacks}


def exit_with(main: Callable[[], int]) -> NoReturn:
    """End the program with what `main` returns; with a sentence and 2 for bad input."""
    sys.exit(status(main))


def held_out(images: Images, batch_size: int = 256) -> list[Batch]:
    """A split as it is, in batches."""
    return list(batches(images, batch_size, "cpu"))
