"""A method that changes another one and leaves the rest to it: AWP(TRADES(beta=6))."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from typing_extensions import override

from sparring.data.batch import Batch
from sparring.learner import Learner
from sparring.methods.base import Loss, Method, Perturbation, Phase, Review, Task, Traits
from sparring.threat import Budget


class Layered(NamedTuple):
    """The phase of a wrapper: its own part, and the wrapped method's."""

    own: Any  # frozen and hashable, as every phase
    inner: Phase


@dataclass
class Wrapper(Method):
    """A method around another one. Each verb passes on to the inner method, with the inner method's phase."""

    inner: Method

    @override
    def traits(self) -> Traits:
        return self.inner.traits()

    @override
    def setup(self, task: Task) -> None:
        self.inner.setup(task)

    @override
    def begin_epoch(self, epoch: int, review: Review | None = None) -> None:
        self.inner.begin_epoch(epoch, review)

    def own_phase(self, epoch: int, step: int) -> Any:
        """Return what the wrapper's own part of a step depends on besides tensors."""
        return None

    @override
    def phase(self, epoch: int, step: int) -> Layered:
        return Layered(self.own_phase(epoch, step), self.inner.phase(epoch, step))

    @override
    def adapt(self, target: Learner, batch: Batch, phase: Phase = None) -> Batch:
        return self.inner.adapt(target, batch, within(phase))

    @override
    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        return self.inner.perturb(model, batch, within(phase), budget)

    @override
    def shifted_weights(
        self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None
    ) -> AbstractContextManager[None]:
        return self.inner.shifted_weights(model, batch, perturbation, within(phase))

    @override
    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        return self.inner.loss(model, batch, perturbation, within(phase))

    @override
    def commit(self, batch: Batch, perturbation: Perturbation, loss: Loss) -> None:
        self.inner.commit(batch, perturbation, loss)

    @override
    def metrics(self) -> Mapping[str, Tensor]:
        return self.inner.metrics()

    @override
    def inspect(self, batch: Batch) -> Mapping[str, Tensor]:
        return self.inner.inspect(batch)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the wrapper's own state and, under `inner`, the wrapped method's."""
        return {**super().state_dict(), "inner": self.inner.state_dict()}

    @override
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        super().load_state_dict(saved)
        self.inner.load_state_dict(saved["inner"])


def within(phase: Layered | None) -> Phase:
    """Return the wrapped method's part of a wrapper's phase; None, the first step's, if there is none."""
    return None if phase is None else phase.inner
