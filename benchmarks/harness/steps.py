"""A recipe trained step by step, for benchmarks that look at the method and the network in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import sparring
from sparring.data import Batch, Draw, Images, batches
from sparring.evaluation import Evaluator
from sparring.learner import Learner
from sparring.methods import Method
from sparring.training import Run, Selection, Session, Step
from sparring.training.progress import Silent


class Bench:
    """The session that `sparring train` would train with, on the CPU and uncompiled."""

    def __init__(self, experiment: sparring.Experiment) -> None:
        self.experiment = replace(
            experiment,
            runtime=replace(experiment.runtime, accelerator="cpu", level="eager"),
            selection=Selection(split="test"),  # no epoch is evaluated by it, so nothing needs to be held out
        )
        # Its folder is only for `fit`, which nobody calls: nothing is written.
        trainer = self.experiment.trainer(Run(Path("never-begun")), Silent())
        self.splits, self.session = trainer.splits, trainer.session

    @property
    def method(self) -> Method:
        """What is being trained with."""
        return self.session.method

    @property
    def learner(self) -> Learner:
        """What is being trained."""
        return self.session.learner

    def draws(self, epoch: int) -> Iterator[Draw]:
        """Yield the batches of an epoch, for `Session.step`."""
        return self.session.data.draws(epoch)

    def show(self, draw: Draw) -> Batch:
        """Return one of them."""
        return self.session.data.show(draw)

    def epochs(self) -> Iterator[int]:
        """Train one epoch after the other; stops in between to hand out its number."""
        session = self.session
        while session.epoch < self.experiment.optimisation.epochs:
            session.begin_epoch()
            for draw in session.draws():
                session.step(draw)
            session.end_epoch()
            yield session.epoch - 1

    def finish(self) -> None:
        """Train all of them."""
        for _ in self.epochs():
            pass

    def step(self, draw: Draw) -> Step:
        """Take one training step, as random as its number."""
        return self.session.step(draw)

    def beside(self, method: Method) -> Session:
        """Return a session of another method on the same network and data."""
        session, experiment = self.session, self.experiment
        return Session(
            method,
            session.learner.network,
            session.data,
            session.threat,
            experiment.optimisation,
            experiment.runtime,
            seed=session.seed,
        )

    def accuracies(self, attacks: tuple[str, ...]) -> dict[str, float]:
        """Return the accuracies on the test images."""
        evaluator = Evaluator(self.learner.eval_model, self.splits.test, self.experiment.threat, 256, "cpu", 0)
        evaluation = evaluator.run(attacks)
        return {attack: round(evaluation.accuracy(attack), 4) for attack in attacks}


def held_out(images: Images, batch_size: int = 256) -> list[Batch]:
    """Return a split as it is, in batches."""
    return list(batches(images, batch_size, "cpu"))
