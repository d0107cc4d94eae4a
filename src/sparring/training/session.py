"""Everything that takes training steps, put together on a device: method, network, data, and where the run stands.

Knows nothing about files, terminals or evaluations. The trainer is a loop over a session; benchmarks and tests are others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparring import ranks
from sparring.data import Draw, TrainingData
from sparring.learner import Learner
from sparring.methods import Method, Phase, Review, Task
from sparring.models import foldable
from sparring.optimisation import Optimisation
from sparring.randomness import check_seed, seed_from
from sparring.threat import Threat
from sparring.training.acceleration.cuda_graph import Capturer
from sparring.training.acceleration.replay import Replayer
from sparring.training.cost import forward_operations
from sparring.training.folding import folding_agrees
from sparring.training.runtime import Runtime
from sparring.training.step import Step, train_step

if TYPE_CHECKING:
    from lightning_fabric import Fabric  # imported where it is made: it takes seconds

_COMPARED = 16  # images an epoch, folded and whole: a thousandth of an epoch of CIFAR-10
_LOG = logging.getLogger(__name__)


class Session:
    """A method, a network and data, ready to take steps; `epoch` and `batch` are the numbers of the next one, from 0.

        data = Resident(images, Augment(), batch_size=128, seed=0, device="cpu")
        session = Session(TRADES(), network, data, Threat(), Optimisation(epochs=2))
        while session.epoch < 2:
            session.begin_epoch()
            for draw in session.draws():
                step = session.step(draw)  # step.loss.total, step.perturbation.delta
            session.end_epoch()

    Without `begin_epoch` the network may be in evaluation mode, and memories and sums of an epoch are not started anew.
    Without `end_epoch` the session stays at the end of its epoch, and `draws` yields nothing more.
    """

    def __init__(
        self,
        method: Method,
        network: nn.Module,
        data: TrainingData,
        threat: Threat,
        optimisation: Optimisation,
        runtime: Runtime | None = None,
        *,
        seed: int = 0,
        held_out: int = 0,
        fabric: Fabric | None = None,
        capturer: Capturer | None = None,
    ) -> None:
        """Arrange the network, choose the level and set the method up.

        Args:
            method: is set up here, and owned from now on.
            network: takes images (B, C, H, W) in [0, 1]; its memory format is the runtime's.
            data: on the device of `fabric`.
            threat: what the method trains against.
            optimisation: how the weights are moved, and for how long.
            runtime: how fast; None is the default one.
            seed: of all that a step draws at random.
            held_out: images outside the training set, for methods that ask for accuracies on them.
            fabric: the device and the precision; None is the runtime's.
            capturer: what captures steps; None is the level's.

        Raises:
            BadInput: a level that the device does not have, or a method that refuses this task (its `setup` says why), for
                instance since it remembers each image and the images have no stable index. That the network takes these
                images is not checked: PyTorch's own error says so, here or in the first step.
        """
        check_seed(seed)
        runtime = runtime or Runtime()
        fabric = fabric or runtime.fabric()
        self.method, self.data, self.threat, self.seed = method, data, threat, seed
        self.device = fabric.device
        self.epoch, self.batch = 0, 0
        network = runtime.arrange(network)
        folds = foldable(network, data.shape)
        total = optimisation.epochs * data.steps_per_epoch * method.traits().replays

        def forward() -> float:
            return total * data.batch_size * forward_operations(network, data.shape)

        self.plan = runtime.plan(self.device, method, network, forward, folds)
        self.learner = Learner(network, optimisation, fabric, total, compiler=self.plan.compiler(), folds=folds)
        method.setup(self._task(held_out, compact=runtime.compacts(self.device, self.plan)))
        capturer = capturer or self.plan.capturer(self.device)
        self.replayer = Replayer(method, self.learner, capturer) if capturer else None

    def begin_epoch(self, review: Review | None = None) -> None:
        """Begin epoch `self.epoch`, or take it up again in the middle: put the network in training mode and tell the method.

        To be called before the first step of every epoch, and after `load_state_dict` or `rollback`. `review` is how the
        epoch before went, for methods that ask (CAT); None in the first epoch and in the middle of one.
        """
        if self.batch == 0 and self.learner.folds:
            self._compare_folded(next(self.draws()))
        self.method.begin_epoch(self.epoch, review)
        self.learner.network.train()

    def draws(self) -> Iterator[Draw]:
        """Yield what stands for each batch that is left of the epoch, in order, for `step`."""
        return self.data.draws(self.epoch, start=self.batch)

    def step(self, draw: Draw) -> Step:
        """Train on one batch and return what the step did.

        First seeds PyTorch's default generators with the run's seed and the number of the step, so that the same step of
        another run with that seed, or of a resumed one, draws the same numbers. A method with several replays (Free-AT)
        takes as many optimizer steps on the batch; the last one's result is returned.
        """
        steps = self.learner.steps
        torch.manual_seed(seed_from(self.seed, steps, *([ranks.index()] if ranks.index() else [])))
        for _ in range(self.method.traits().replays):
            step = self._step(self.method.phase(self.epoch, self.learner.steps), draw)
        self.batch += 1
        return step

    def end_epoch(self) -> None:
        """Go on to the next epoch, at its first batch."""
        self.epoch, self.batch = self.epoch + 1, 0

    def _step(self, phase: Phase, draw: Draw) -> Step:
        live = partial(self._live, phase)
        return self.replayer.take(phase, draw, live) if self.replayer else live(draw)

    def _live(self, phase: Phase, draw: Draw) -> Step:
        return train_step(self.method, self.learner, self.data.show(draw), phase)

    def _compare_folded(self, draw: Draw) -> None:
        """Fold no more where that would change what attacks see, by the first images of an epoch.

        `foldable` has tried it on one image of noise and on random statistics; a network may depend on more than that.
        """
        x = self.data.show(draw).x[:_COMPARED]
        if not folding_agrees(self.learner.network, self.learner.folds, x):
            self.learner.stop_folding()
            _LOG.warning(
                "BatchNorm is no longer folded in attacks: with it folded, the network answers the images of epoch %d "
                "otherwise. Steps are right, and slower.",
                self.epoch,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, as it is: later steps change the tensors."""
        return {
            "learner": self.learner.state_dict(),
            "method": self.method.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave, whose tensors may become this session's; then call `begin_epoch`.

        Raises BadInput for the state of another method.
        """
        self.method.load_state_dict(state["method"])
        self.learner.load_state_dict(state["learner"])
        self.epoch, self.batch = state["epoch"], state["batch"]

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the state, on the device, that later steps leave alone."""
        return deepcopy(self.state_dict())

    def rollback(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot, as often as needed; then call `begin_epoch`."""
        self.load_state_dict(deepcopy(snapshot))

    def _task(self, held_out: int, *, compact: bool) -> Task:
        data, optimisation = self.data, self.learner.optimisation
        return Task(
            threat=self.threat,
            samples=data.samples,
            shape=data.shape,
            canvas=data.canvas,
            classes=data.classes,
            batch_size=data.batch_size,
            epochs=optimisation.epochs,
            device=self.device,
            seed=self.seed,
            compact=compact,
            optimizer=optimisation.optimizer,
            held_out=held_out,
        )
