"""The loop around the training step: epochs, validation, the best epoch, checkpoints, and stopping in between.

Everything random in a step is a function of (seed, step), and everything that carries over is in the checkpoint: a run
that was killed and resumed ends with the same weights, bit for bit, as one that was left alone.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from sparring import ranks
from sparring.attacks import Attack
from sparring.data import Augment, Images, Resident, Splits
from sparring.errors import BadInput, NotANumber, first_line
from sparring.evaluation import CLEAN, Evaluator
from sparring.evaluation.doctor.inputs import radius_of
from sparring.methods import Method, Review
from sparring.models import ModelDescription
from sparring.optimisation import Optimisation
from sparring.threat import Threat
from sparring.training import checkpoint
from sparring.training.diagnostics import Diagnostics, Observer
from sparring.training.interruption import Interruption
from sparring.training.progress import Reporter
from sparring.training.run import Row, Run
from sparring.training.runtime import Runtime
from sparring.training.selection import Selection
from sparring.training.session import Session
from sparring.training.statistics import EpochStatistics

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_PARTS = ("method", "learner", "epoch", "batch", "fingerprint", "tally", "diagnostics", "history")  # of a checkpoint


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved its state."""


class Diverged(BadInput):
    """The training loss is no longer finite, or the network's answers are no numbers."""


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
    configuration: str  # of all these, as YAML
    reporter: Reporter
    _history: list[Row] = field(init=False, default_factory=list)
    _interruption: Interruption = field(init=False, default_factory=Interruption)
    _board: SummaryWriter = field(init=False)

    def __post_init__(self) -> None:
        """Put everything on the device; raises BadInput for parts that do not fit together."""
        self._selection_images = self.selection.pick(self.splits)
        _check_radius(self.threat, self.splits.shape)
        fabric, train, options = self.runtime.fabric(), self.splits.train, self.optimisation
        data = Resident(
            train,
            self.augment,
            options.batch_size,
            self.seed,
            fabric.device,
            rank=ranks.index(),
            world_size=ranks.count(),
            drop_last=options.drop_last,
            classes=len(self.splits.classes),
        )
        held_out = len(self.splits.validation)
        self.session = Session(
            self.method,
            self.network,
            data,
            self.threat,
            options,
            self.runtime,
            seed=self.seed,
            held_out=held_out,
            fabric=fabric,
        )
        _check_last_batch(self.session)
        followed = self.diagnostics.follow(train, self.augment, options.batch_size, fabric.device)
        self._observer = Observer(self.diagnostics.every, followed, self.threat, self.seed, self.run, fabric.device)
        self._statistics = EpochStatistics(fabric.device)

    def restore(self) -> bool:
        """Go on from the newest checkpoint, if there is one; return whether there was. Raises BadInput for other images."""
        if not self.run.last.exists():
            return False
        self._restore()
        return True

    def fit(self) -> list[Row]:
        """Train to the end; return the rows of metrics.csv.

        Raises Interrupted on Ctrl-C or SIGTERM, after saving: the run can be resumed from that very batch. Raises
        BadInput if the loss is no longer finite; the checkpoint of the epoch before stays.
        """
        session, epochs = self.session, self.optimisation.epochs
        with (
            self._interruption.handled(),
            self.reporter as reporter,
            self.run.tensorboard(session.epoch) as self._board,
        ):
            steps = session.data.steps_per_epoch
            done = session.epoch * steps + session.batch
            title = f"{type(self.method).__name__} on {self.splits.name} ({self.run.folder.name})"
            reporter.begin(title, epochs * steps, done)
            for note in (str(self.splits), *self.splits.notes, *_about_radius(self.threat, self.splits.shape)):
                reporter.note(note)
            reporter.note(f"Level {session.plan.name}: {session.plan.reason}.")
            while session.epoch < epochs:
                session.begin_epoch(self._review())
                began = time.perf_counter()
                self._train_epoch()
                self._finish_epoch(time.perf_counter() - began)
                reporter.epoch(self._history[-1])
        return self._history

    def _train_epoch(self) -> None:
        session = self.session
        for draw in session.draws():
            step = session.step(draw)  # at the rate session.learner.rate
            self._statistics.add(step.loss, step.batch.y)
            self._observer.look(session.batch - 1, step.perturbation, session.learner)
            self.reporter.step()
            if self._interruption.asked and session.batch < session.data.steps_per_epoch:
                self.run.save(self._state())
                raise self._interrupted()

    def _review(self) -> Review | None:
        """Return how the last epoch ended; after its checkpoint, so that a resumed run asks again."""
        if not self._history or self.session.batch > 0:
            return None

        def accuracy(attacks: Sequence[Attack]) -> float:
            if len(self.splits.validation) == 0:
                asking = type(self.method).__name__
                raise BadInput(f"{asking} asks how accurate it is on held-out images: set data.validation above 0.")
            held_out = replace(self.selection, split="validation").pick(self.splits)  # never test images
            return self._evaluator(held_out).under(attacks).worst

        return Review(self.session.learner, self._history[-1]["train_accuracy"], accuracy)

    def _finish_epoch(self, seconds: float) -> None:
        session = self.session
        row = self._statistics.row(session.epoch) | {"steps": float(session.learner.steps), "train_seconds": seconds}
        if not math.isfinite(row["train_loss"]):
            raise self._diverged(f"training loss became {row['train_loss']}")
        try:
            row |= self._evaluate() | {"attack_success": 1 - row["train_accuracy"]} | self._evaluate_training_images()
        except NotANumber as error:  # after the last step, while all losses were finite
            raise self._diverged("network's answers became NaN") from error
        self._history.append(self._observer.conclude(row, self._history, self.method, session.learner))
        self._statistics = EpochStatistics(session.device)
        session.end_epoch()
        # The checkpoint comes last: killed before it, a resumed run does this epoch and these files again.
        if self._newest_is_best():
            self.run.export(session.learner.export_model, self.description)
        self.run.write_metrics(self._history)
        self._log(self._history[-1])
        if self._interruption.asked or self._is_kept(session.epoch):
            self.run.save(self._state())
            self._keep_best()
        if self._interruption.asked and session.epoch < self.optimisation.epochs:
            raise self._interrupted()

    def _diverged(self, what: str) -> Diverged:
        return Diverged(
            f"The {what} in epoch {self.session.epoch}: lower optimisation.lr ({self.optimisation.lr}) or set "
            "optimisation.clip, and start again."
        )

    def _newest_is_best(self) -> bool:
        return self.selection.is_best([row[self.selection.by] for row in self._history])

    def _is_kept(self, epochs: int) -> bool:
        """Say whether there is a checkpoint after so many epochs, whatever happens meanwhile."""
        return epochs % self.runtime.checkpoint_every == 0 or epochs == self.optimisation.epochs

    def _keep_best(self) -> None:
        """Keep the best of the epochs with a checkpoint: a run that was interrupted in between ends with the same one."""
        values = [row[self.selection.by] for number, row in enumerate(self._history, 1) if self._is_kept(number)]
        if self._is_kept(self.session.epoch) and self.selection.is_best(values):
            self.run.keep_as_best()

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"Stopped in epoch {self.session.epoch} after {self.session.batch} batches, all saved: go on with "
            f"{self.run.resuming}"
        )

    def _log(self, row: Row) -> None:
        for name, value in row.items():
            if name != "epoch":
                self._board.add_scalar(name, value, int(row["epoch"]))
        self._board.flush()

    def _evaluate(self) -> Row:
        """Return the accuracy of the network to be exported, clean and attacked, in the run's own precision."""
        began = time.perf_counter()
        clean, robust = self._accuracies(self._selection_images)
        return {"clean": clean, "robust": robust, "validation_seconds": time.perf_counter() - began}

    def _evaluate_training_images(self) -> Row:
        if self.diagnostics.train_images == 0:
            return {}
        clean, robust = self._accuracies(self.diagnostics.pick(self.splits.train, self.seed))
        return {"train_clean": clean, "train_robust": robust}

    def _accuracies(self, images: Images) -> tuple[float, float]:
        attack = self.selection.attack
        evaluation = self._evaluator(images).run([CLEAN, attack])
        return evaluation.accuracy(CLEAN), evaluation.accuracy(attack)

    def _evaluator(self, images: Images) -> Evaluator:
        model, device = self.session.learner.eval_model, self.session.device
        return Evaluator(model, images, self.threat, self.selection.batch_size, device, self.seed)

    def _state(self) -> dict[str, Any]:
        return self.session.state_dict() | {
            "configuration": self.configuration,
            "fingerprint": self.splits.fingerprint,
            "tally": self._statistics.sums,
            "diagnostics": self._observer.state_dict(),
            "history": self._history,
        }

    def _restore(self) -> None:
        state = checkpoint.load(self.run.last, self.session.device, _PARTS)
        if (begun_on := state.get("fingerprint")) != self.splits.fingerprint:
            raise BadInput(
                f"The images of {self.splits.name} changed since this run was begun (fingerprint {begun_on} then, "
                f"{self.splits.fingerprint} now): restore them, or start a new run."
            )
        self.session.load_state_dict(state)
        self._history = [_renamed(row) for row in state["history"]]
        self._statistics.sums = state["tally"]
        self._observer.load_state_dict(state["diagnostics"])
        if self.session.batch == 0 and self._history:
            self._keep_best()  # in case it was killed between the two


def _about_radius(threat: Threat, shape: tuple[int, int, int]) -> Iterator[str]:
    """Yield what the doctor warns of in every evaluation, such as a radius of Linf in L2."""
    finding = radius_of(threat, shape)
    if finding is not None and finding.severity == "warning":
        yield f"{finding.seen} {finding.why} {finding.advice}"


def _check_radius(threat: Threat, shape: tuple[int, int, int]) -> None:
    """Raise BadInput for a radius that lets all images (C, H, W) be made one and the same grey."""
    grey = threat.geometry.to_grey(math.prod(shape))
    if threat.eps >= grey:
        raise BadInput(
            f"Within threat.eps {threat.eps} in {threat.norm} images of {' x '.join(map(str, shape))} pixels can all become "
            f"plain grey, so nothing can be learnt: give less than {grey:g}."
        )


def _check_last_batch(session: Session) -> None:
    """Raise BadInput if an epoch would end with a single image that the network cannot train on.

    BatchNorm cannot where it sees one value a channel, as in the last stages of networks for larger images.
    """
    draw = next(session.data.draws(0, session.data.steps_per_epoch - 1))
    if draw.shape[1] > 1:
        return
    try:
        copy.deepcopy(session.learner.raw_model).train()(session.data.show(draw).x)
    except ValueError as error:
        raise BadInput(
            f"The last batch of an epoch has one image, on which this network cannot be trained ({first_line(error)}): "
            "set optimisation.drop_last to true, or another optimisation.batch_size."
        ) from error


def _renamed(row: Row) -> Row:
    """Return a row of metrics under its present names; version 0.1 wrote judge_seconds."""
    return {"validation_seconds" if name == "judge_seconds" else name: value for name, value in row.items()}
