"""The loop around the training step: epochs, validation, the best epoch, checkpoints, and stopping in between.

Everything random in a step is a function of (seed, step), and everything that carries over is in the checkpoint: a run
that was killed and resumed ends with the same weights, bit for bit, as one that was left alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from sparring.attacks import Attack, named
from sparring.data import Augment, Images, Resident, Splits
from sparring.errors import BadInput
from sparring.evaluation.robustness import CLEAN, Examination
from sparring.learner import Learner, Optimisation
from sparring.methods import Method, Review, Task
from sparring.models import ModelDescription, foldable
from sparring.randomness import seed_from
from sparring.threat import Threat
from sparring.training import checkpoint
from sparring.training.cost import forward_operations, operations_per_image
from sparring.training.diagnostics import Diagnostics, Observer
from sparring.training.interruption import Interruption
from sparring.training.level import Work
from sparring.training.progress import Reporter
from sparring.training.run import Row, Run
from sparring.training.runtime import Runtime
from sparring.training.stepper import Stepper, Taken
from sparring.training.tally import Tally


@dataclass(frozen=True)
class Selection:
    """How each epoch is judged, and so which one is the best.

    Args:
        attack: what the network is attacked with after every epoch.
        by: robust, the accuracy under the attack, or clean. The later of two equal epochs is the best.
        split: validation, images held out of the training set (the default), or test, as published "best" rows do.
        images: at most so many of them; None is all.
        batch_size: images at a time; the figures do not depend on it.
    """

    attack: str = "pgd-10"
    by: Literal["robust", "clean"] = "robust"
    split: Literal["validation", "test"] = "validation"
    images: int | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        named(self.attack)
        for name in ("images", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"selection.{name} must be at least 1, not {value}.")

    def pick(self, splits: Splits) -> Images:
        """The images to judge on; raises BadInput if there are none."""
        images = splits.validation if self.split == "validation" else splits.test
        if len(images) == 0:
            raise BadInput(
                "No images are held out for validation: set data.validation above 0, or selection.split: test."
            )
        return images if self.images is None else images.subset(torch.arange(min(self.images, len(images))))


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved its state."""


@dataclass
class Trainer:
    """One run, from its parts."""

    method: Method
    network: nn.Module
    description: ModelDescription
    splits: Splits
    augment: Augment
    threat: Threat
    optimisation: Optimisation
    selection: Selection
    diagnostics: Diagnostics
    runtime: Runtime
    seed: int
    run: Run
    reporter: Reporter
    _history: list[Row] = field(init=False, default_factory=list)
    _interruption: Interruption = field(init=False, default_factory=Interruption)
    _board: SummaryWriter = field(init=False)

    def __post_init__(self) -> None:
        """Put everything on the device; raises BadInput for parts that do not fit together."""
        self._judges = self.selection.pick(self.splits)
        fabric = self.runtime.fabric()
        self._device = fabric.device
        options = self.optimisation
        self._data = Resident(
            self.splits.train, self.augment, options.batch_size, self.seed, self._device, drop_last=options.drop_last
        )
        self._total = options.epochs * self._data.steps_per_epoch * self.method.replays
        network = self.runtime.arrange(self.network)
        folds = foldable(network, self.splits.train.pixels.shape[1:])
        self._plan = self.runtime.plan(self._device, self.method, network, self._work(network, fabric), folds)
        self._learner = Learner(network, options, fabric, self._total, compiler=self._plan.compiler(), folds=folds)
        self.method.setup(self._task(compact=self.runtime.compacts(self._device, self._plan)))
        self._stepper = Stepper(self.method, self._learner, self._data, self._plan.recorder(self._device))
        self._tally = Tally(self._device)
        self._observer = self._observe()
        self._epoch, self._batch = 0, 0  # the next batch to train on

    def fit(self, *, resume: bool = False) -> list[Row]:
        """Train to the end, from the newest checkpoint if told to resume; the rows of metrics.csv.

        Raises Interrupted on Ctrl-C or SIGTERM, after saving: the run can be resumed from that very batch. Raises
        BadInput if the loss is no longer finite; the checkpoint of the epoch before stays.
        """
        if resume and self.run.last.exists():
            self._restore()
        with self._interruption.heeded(), self.reporter as reporter, self.run.tensorboard(self._epoch) as self._board:
            done = self._epoch * self._data.steps_per_epoch + self._batch
            reporter.begin(
                f"{self.method.__class__.__name__} on {self.splits.name}",
                self.optimisation.epochs * self._data.steps_per_epoch,
                done,
            )
            reporter.note(f"Level {self._plan.name}: {self._plan.reason}.")
            while self._epoch < self.optimisation.epochs:
                self._review()
                began = time.perf_counter()
                self._train_epoch()
                self._finish_epoch(time.perf_counter() - began)
                reporter.epoch(self._history[-1])
        return self._history

    def _review(self) -> None:
        """Tell the method how the last epoch ended; after its checkpoint, so that a resumed run does it again."""
        if self._history and self._batch == 0:

            def accuracy(attacks: Sequence[Attack]) -> float:
                held_out = replace(self.selection, split="validation").pick(self.splits)  # never test images
                return self._examination(held_out).under(attacks).worst

            self.method.review(self._learner, Review(self._history[-1]["train_accuracy"], accuracy))

    def _train_epoch(self) -> None:
        self.method.begin_epoch(self._epoch)
        self._learner.network.train()
        for draw in self._data.draws(self._epoch, start=self._batch):
            torch.manual_seed(seed_from(self.seed, self._learner.steps))
            self._count(self._stepper.take(draw))
            self._batch += 1
            self.reporter.step()
            if self._interruption.asked and self._batch < self._data.steps_per_epoch:
                self.run.save(self._state())
                raise self._interrupted()

    def _count(self, taken: Taken) -> None:
        self._tally.add(taken.step.loss, taken.batch.y)
        self._observer.look(self._batch, taken.step.perturbation, self._learner)

    def _finish_epoch(self, seconds: float) -> None:
        row = self._tally.row(self._epoch) | {"steps": float(self._learner.steps), "train_seconds": seconds}
        if not math.isfinite(row["train_loss"]):
            raise BadInput(
                f"The training loss became {row['train_loss']} in epoch {self._epoch}: lower optimisation.lr "
                f"({self.optimisation.lr}) or set optimisation.clip, and start again."
            )
        row |= self._judge() | {"attack_success": 1 - row["train_accuracy"]} | self._judge_on_training_images()
        self._history.append(self._observer.conclude(row, self._history, self.method, self._learner))
        self._tally = Tally(self._device)
        self._epoch, self._batch = self._epoch + 1, 0
        # The checkpoint comes last: killed before it, a resumed run does this epoch and these files again.
        if self._newest_is_best():
            self.run.export(self._learner.exported, self.description)
        self.run.write_metrics(self._history)
        self._log(self._history[-1])
        if self._interruption.asked or self._is_kept(self._epoch):
            self.run.save(self._state())
            self._keep_best()
        if self._interruption.asked and self._epoch < self.optimisation.epochs:
            raise self._interrupted()

    def _newest_is_best(self) -> bool:
        values = [row[self.selection.by] for row in self._history]
        return values[-1] >= max(values)

    def _is_kept(self, epochs: int) -> bool:
        """Whether there is a checkpoint after so many epochs, whatever happens meanwhile."""
        return epochs % self.runtime.checkpoint_every == 0 or epochs == self.optimisation.epochs

    def _keep_best(self) -> None:
        """Of the epochs with a checkpoint: a run that was interrupted in between ends with the same one."""
        values = [row[self.selection.by] for number, row in enumerate(self._history, 1) if self._is_kept(number)]
        if self._is_kept(self._epoch) and values[-1] >= max(values):
            self.run.keep_as_best()

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"Stopped in epoch {self._epoch} after {self._batch} batches, all saved: go on with "
            f"sparring train {self.run.config} --run {self.run.folder} --resume"
        )

    def _log(self, row: Row) -> None:
        for name, value in row.items():
            if name != "epoch":
                self._board.add_scalar(name, value, int(row["epoch"]))
        self._board.flush()

    def _judge(self) -> Row:
        """Accuracy of the network to be exported, clean and attacked, in the run's own precision."""
        began = time.perf_counter()
        clean, robust = self._examine(self._judges)
        return {"clean": clean, "robust": robust, "judge_seconds": time.perf_counter() - began}

    def _judge_on_training_images(self) -> Row:
        if self.diagnostics.train_images == 0:
            return {}
        clean, robust = self._examine(self.diagnostics.pick(self.splits.train, self.seed))
        return {"train_clean": clean, "train_robust": robust}

    def _examine(self, images: Images) -> tuple[float, float]:
        attack = self.selection.attack
        evaluation = self._examination(images).run([CLEAN, attack])
        return evaluation.accuracy(CLEAN), evaluation.accuracy(attack)

    def _examination(self, images: Images) -> Examination:
        return Examination(
            self._learner.judged, images, self.threat, self.selection.batch_size, self._device, self.seed
        )

    def _observe(self) -> Observer:
        followed = self.diagnostics.follow(self.splits.train, self.augment, self.optimisation.batch_size, self._device)
        return Observer(self.diagnostics.every, followed, self.threat, self.seed, self.run, self._device)

    def _work(self, network: nn.Module, fabric: Fabric) -> Work:
        """What all steps together will compute."""
        options, task = self.optimisation, self._task(compact=False)
        images = self._total * options.batch_size
        return Work(
            forward=lambda: images * forward_operations(network, task.shape),
            whole=lambda: images * operations_per_image(self.method, network, options, task, fabric),
        )

    def _task(self, *, compact: bool) -> Task:
        channels, height, width = self.splits.train.pixels.shape[1:]
        pad = self.augment.pad
        return Task(
            threat=self.threat,
            samples=len(self.splits.train),
            shape=(channels, height, width),
            canvas=(channels, height + 2 * pad, width + 2 * pad),
            classes=len(self.splits.classes),
            batch_size=self.optimisation.batch_size,
            epochs=self.optimisation.epochs,
            device=self._device,
            seed=self.seed,
            compact=compact,
            optimizer=self.optimisation.optimizer,
            held_out=len(self.splits.validation),
        )

    def _state(self) -> dict[str, Any]:
        return {
            "learner": self._learner.state_dict(),
            "method": self.method.state_dict(),
            "fingerprint": self.splits.fingerprint,
            "epoch": self._epoch,
            "batch": self._batch,
            "tally": self._tally.sums,
            "diagnostics": self._observer.state_dict(),
            "history": self._history,
        }

    def _restore(self) -> None:
        state = checkpoint.load(self.run.last, self._device)
        if (begun_on := state.get("fingerprint")) != self.splits.fingerprint:
            raise BadInput(
                f"The images of {self.splits.name} changed since this run was begun (fingerprint {begun_on} then, "
                f"{self.splits.fingerprint} now): restore them, or start a new run."
            )
        self.method.load_state_dict(state["method"])
        self._learner.load_state_dict(state["learner"])
        self._epoch, self._batch, self._history = state["epoch"], state["batch"], state["history"]
        self._tally.sums = state["tally"]
        self._observer.load_state_dict(state["diagnostics"])
        if self._batch == 0 and self._history:
            self._keep_best()  # in case it was killed between the two
