"""What a training method is: an inner maximisation (`perturb`), an outer minimisation (`loss`), and the state it owns.

A method knows nothing about data sets, schedules, devices or the command line. A new one is a dataclass that says how to
perturb and what to minimise; it appears in the configuration, in checkpoints and in its own repr by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparring.attacks import PGD, Attack
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.learner import Learner
from sparring.threat import Budget, Threat


@dataclass(frozen=True)
class Task:
    """What a method may know of the run when it sets itself up."""

    threat: Threat
    samples: int | None  # of the training set; the batches' `index` is below it; None: images without a stable index
    shape: tuple[int, int, int]  # (C, H, W) of a training image
    canvas: tuple[int, int, int]  # (C, H + 2 pad, W + 2 pad), the coordinates that a View looks into
    classes: int
    batch_size: int
    epochs: int
    device: torch.device
    seed: int = 0
    compact: bool = False  # whether finished samples may leave an attack's batch, which makes the host read tensors
    optimizer: str = "sgd"  # the target's, a name of `Optimisation`
    held_out: int = 0  # images outside the training set that `Review.accuracy` is of


@dataclass(frozen=True)
class Perturbation:
    """What `perturb` found. Tensors only, never autograd graphs: a wrapper may evaluate the loss at other weights."""

    delta: Float[Tensor, "B C H W"]
    start: Float[Tensor, "B C H W"] | None = None  # where the ascent began; None: there was none
    weight: Float[Tensor, " B"] | None = None  # replaces, sample by sample, the weight of a method that is `weighted`
    steps: Float[Tensor, " B"] | None = None  # how many steps the attack took, where a curriculum ends it early


@dataclass(frozen=True)
class Loss:
    """What `loss` computed: the scalar to descend, the logits (B, K) of the training images, and terms worth logging."""

    total: Tensor
    logits: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)  # scalars, detached


@dataclass(frozen=True)
class Review:
    """How the network does after an epoch, for a method whose curriculum depends on it."""

    train_accuracy: float  # of the epoch, on its training examples
    # On held-out images, under the worst of these attacks; the clean images count as one.
    accuracy: Callable[[Sequence[Attack]], float]


@runtime_checkable
class Stateful(Protocol):
    """A memory, a module or an optimizer that a method keeps between steps."""

    def state_dict(self) -> dict[str, Any]:
        """What to put into a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take it back."""


def state(*, steers: bool = True) -> Any:
    """A field that the method sets up itself: absent from the configuration and the repr, always in the checkpoint.

    `steers` is False for a number that no step's operations depend on, such as the epoch of which sums are kept: it may
    change without a recorded step being recorded anew.
    """
    return field(init=False, repr=False, compare=False, default=None, metadata={"state": True, "steers": steers})


@dataclass
class Method(ABC):
    """A way to train a robust classifier. Init fields are its configuration, `state()` fields what it remembers.

    The step calls, in this order: `begin_step`, `adapt`, `perturb_before_loss` (for most, `perturb`), `shifted_weights`
    around `loss` and the backward pass, and after the optimizer's step `commit`. None of them may read a tensor's value on
    the host. But for `begin_step`, they may be recorded once and replayed without Python: as long as no number, flag or
    object that the method holds in an attribute has changed.
    """

    one_pass: ClassVar[bool] = False  # the loss's backward pass is the attack's too: other weights will not do
    twice_differentiated: ClassVar[bool] = False  # the loss holds a gradient of the network, and is differentiated
    shrinks: ClassVar[bool] = False  # images whose attack has ended may leave the batch (`Task.compact`)
    waits: ClassVar[bool] = False  # a step makes the host wait for a GPU, and cannot be recorded there

    @property
    def replays(self) -> int:
        """Optimizer steps per batch."""
        return 1

    def setup(self, task: Task) -> None:  # noqa: B027 - most methods keep no state
        """Allocate the state for a run and refuse combinations that cannot work (BadInput)."""

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027
        """Schedules and curricula; epochs count from 0. Called again for the same epoch after a resume."""

    def begin_step(self, step: int) -> None:  # noqa: B027
        """What is due at optimizer step `step` of the run, from 0: plain numbers and flags, nothing of tensors."""

    def review(self, target: Learner, last: Review) -> None:  # noqa: B027
        """Comes before every epoch but the first, with how the network did in the last one; may put weights back."""

    def adapt(self, target: Learner, batch: Batch) -> None:  # noqa: B027
        """Train networks of the method's own, before the attack."""

    @abstractmethod
    def perturb(self, model: nn.Module, batch: Batch, budget: Budget | None = None) -> Perturbation:
        """The inner maximisation on the network's current weights; `budget` replaces the configured efforts."""

    def perturb_before_loss(self, model: nn.Module, batch: Batch) -> Perturbation:
        """`perturb`, where `loss` and its backward pass follow at these very weights: may keep what both compute.

        Running statistics are moved as often as by `perturb` and `loss` together. Wrappers do not pass it on: they may
        change the weights or the budget in between.
        """
        return self.perturb(model, batch)

    def shifted_weights(
        self, model: nn.Module, batch: Batch, perturbation: Perturbation
    ) -> AbstractContextManager[None]:
        """The weights at which the loss is evaluated; on leaving they are the original ones again."""
        return nullcontext()

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation) -> Loss:
        """The outer minimisation's objective, a batch mean."""

    def commit(self, batch: Batch, perturbation: Perturbation) -> None:  # noqa: B027
        """Remember what the next step or epoch needs, after the weights moved."""

    def budgeted(self) -> PGD | None:
        """The attack whose radius, steps and step size a `Budget` replaces, sample by sample; None if there is none."""
        return None

    def weighted(self) -> bool:
        """Whether `Perturbation.weight` replaces a weight in the loss (TRADES's beta)."""
        return False

    def report(self) -> Mapping[str, Tensor]:
        """What the method says of the epoch that just ended, by name: numbers, and vectors for a file of their own.

        The names are the same in every epoch; a number that an epoch has none of is NaN.
        """
        return {}

    def inspect(self, batch: Batch) -> Mapping[str, Tensor]:
        """What the method would do to each of these images, (B,) by name, without changing anything."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The class's name and everything in the `state()` fields, by field name."""
        contents = {name: _saved(getattr(self, name)) for name in self._state_fields()}
        return {"method": type(self).__name__, **contents}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` gave, after `setup`; raises BadInput if it came from another method."""
        if saved.get("method") != type(self).__name__:
            raise BadInput(
                f"This checkpoint was written by the method {saved.get('method')}, not {type(self).__name__}: "
                "resume it with its own configuration."
            )
        for name in self._state_fields():
            current, value = getattr(self, name), saved[name]
            if isinstance(current, Stateful):
                current.load_state_dict(value)
            elif isinstance(current, Tensor):
                current.copy_(value)
            else:
                setattr(self, name, value)

    def _state_fields(self) -> list[str]:
        return [f.name for f in fields(self) if f.metadata.get("state")]


def layers(method: Method) -> Iterator[Method]:
    """The method and what it wraps, from the outside in."""
    yield method
    if isinstance(method, Wrapper):
        yield from layers(method.inner)


def _saved(value: Any) -> Any:
    return value.state_dict() if isinstance(value, Stateful) else value


@dataclass
class Wrapper(Method):
    """A method that changes another one and leaves the rest to it: AWP(TRADES(beta=6))."""

    inner: Method

    @property
    def replays(self) -> int:
        """See `Method`."""
        return self.inner.replays

    def setup(self, task: Task) -> None:
        """See `Method`."""
        self.inner.setup(task)

    def begin_epoch(self, epoch: int) -> None:
        """See `Method`."""
        self.inner.begin_epoch(epoch)

    def begin_step(self, step: int) -> None:
        """See `Method`."""
        self.inner.begin_step(step)

    def review(self, target: Learner, last: Review) -> None:
        """See `Method`."""
        self.inner.review(target, last)

    def adapt(self, target: Learner, batch: Batch) -> None:
        """See `Method`."""
        self.inner.adapt(target, batch)

    def perturb(self, model: nn.Module, batch: Batch, budget: Budget | None = None) -> Perturbation:
        """See `Method`."""
        return self.inner.perturb(model, batch, budget)

    def shifted_weights(
        self, model: nn.Module, batch: Batch, perturbation: Perturbation
    ) -> AbstractContextManager[None]:
        """See `Method`."""
        return self.inner.shifted_weights(model, batch, perturbation)

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation) -> Loss:
        """See `Method`."""
        return self.inner.loss(model, batch, perturbation)

    def commit(self, batch: Batch, perturbation: Perturbation) -> None:
        """See `Method`."""
        self.inner.commit(batch, perturbation)

    def budgeted(self) -> PGD | None:
        """See `Method`."""
        return self.inner.budgeted()

    def weighted(self) -> bool:
        """See `Method`."""
        return self.inner.weighted()

    def report(self) -> Mapping[str, Tensor]:
        """See `Method`."""
        return self.inner.report()

    def inspect(self, batch: Batch) -> Mapping[str, Tensor]:
        """See `Method`."""
        return self.inner.inspect(batch)

    def state_dict(self) -> dict[str, Any]:
        """The wrapper's own state and, under `inner`, the wrapped method's."""
        return {**super().state_dict(), "inner": self.inner.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """See `Method`."""
        super().load_state_dict(saved)
        self.inner.load_state_dict(saved["inner"])
