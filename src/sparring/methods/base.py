"""What a training method is: an inner maximisation (`perturb`), an outer minimisation (`loss`), and the state it owns.

A method knows nothing about data sets, schedules, devices or the command line. A new one is a dataclass that says how to
perturb and what to minimise; it appears in the configuration, in checkpoints and in its own repr by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparring.attacks import PGD, Attack
from sparring.choices import check_choices
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.learner import Learner
from sparring.threat import Budget, Threat, check_threat

Phase: TypeAlias = Any  # a frozen, hashable value; each method that has phases names the type of its own


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

    def __post_init__(self) -> None:
        check_threat(self.threat)


@dataclass(frozen=True)
class Traits:
    """What the rest of the library must know of a method. A wrapper's are the wrapped method's, changed where it differs."""

    replays: int = 1  # optimizer steps a batch
    attack: PGD | None = None  # the attack that training examples come from, if it is one of this form
    accepts_budget: bool = False  # a `Budget` replaces that attack's radius, steps and step size, sample by sample
    accepts_weight: bool = False  # `Perturbation.weight` replaces a weight in the loss (TRADES's beta)
    shifts_weights: bool = False  # the loss is taken at other weights than the attack
    one_pass: bool = False  # the loss's backward pass is the attack's too: other weights will not do
    clean_forward: bool = (
        False  # after the step the clean images go through the network once more, for BatchNorm's statistics
    )
    double_backward: bool = False  # the loss holds a gradient of the network, and is differentiated
    shrinks: bool = False  # images whose attack has ended may leave the batch (`Task.compact`)
    host_waits: bool = False  # a step makes the host wait for a GPU, and cannot be captured there


@dataclass(frozen=True)
class Perturbation:
    """What `perturb` found. Tensors only, never autograd graphs: a wrapper may evaluate the loss at other weights."""

    delta: Float[Tensor, "B C H W"]
    start: Float[Tensor, "B C H W"] | None = None  # where the ascent began; None: there was none
    weight: Float[Tensor, " B"] | None = None  # replaces, sample by sample, the weight of a method that accepts one
    steps: Float[Tensor, " B"] | None = None  # how many steps the attack took, where a curriculum ends it early


@dataclass(frozen=True)
class Loss:
    """What `loss` computed: the scalar to descend, the logits (B, K) of the training images, and terms worth logging."""

    total: Tensor
    logits: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)  # scalars, detached


@dataclass(frozen=True)
class Review:
    """How the network did in the epoch before, for a method whose curriculum depends on it."""

    learner: Learner  # whose weights the method may put back
    train_accuracy: float  # of the epoch, on its training examples
    # On held-out images, under the worst of these attacks; the clean images count as one.
    accuracy: Callable[[Sequence[Attack]], float]


@runtime_checkable
class Stateful(Protocol):
    """A memory, a module or an optimizer that a method keeps between steps."""

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Restore what `state_dict` gave."""


def state() -> Any:
    """Return a field that the method sets up itself: absent from the configuration and the repr,
    always in the checkpoint.
    """
    return field(init=False, repr=False, compare=False, metadata={"state": True})


@dataclass
class Method(ABC):
    """A way to train a robust classifier. Init fields are its configuration, `state()` fields what it remembers.

    A step calls `adapt`, `perturb`, `loss` (within `shifted_weights`) and, after the optimizer's step, `commit`. None of
    them reads a tensor's value on the host or sets an attribute: what a step depends on besides tensors is its `phase`.
    Steps of the same phase may be captured once and replayed without Python.
    """

    def __post_init__(self) -> None:
        """Raise BadInput where a setting is none of its choices; a method with checks of its own calls this, too."""
        check_choices(self)

    def __getattr__(self, name: str) -> Any:  # only of what is missing
        """Raise BadInput for a field that `setup` would have filled."""
        if any(f.name == name and not f.init for f in fields(self)):
            missing = name.removeprefix("_")
            raise BadInput(f"{type(self).__name__} has no {missing} yet: call its setup(Task(...)) first.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def traits(self) -> Traits:
        """Return what the rest of the library must know of this method."""
        return Traits()

    def setup(self, task: Task) -> None:  # noqa: B027 - most methods keep no state
        """Allocate the state for a run and refuse combinations that cannot work (BadInput)."""

    def begin_epoch(self, epoch: int, review: Review | None = None) -> None:  # noqa: B027
        """Prepare what lasts for an epoch, such as a memory to be filled anew; epochs count from 0.

        `review` is how the epoch before went; None in the first epoch, and where a run resumes within an epoch, for which
        this is then the second call.
        """

    def phase(self, epoch: int, step: int) -> Phase:
        """Return all that optimizer step `step` of the run, from 0, depends on besides tensors; frozen and hashable.

        Numbers that change with the epoch and flags of what is due now and then. The step's verbs are handed this value;
        None stands for the first step's.
        """
        return None

    def adapt(self, target: Learner, batch: Batch, phase: Phase = None) -> Batch:
        """Train networks of the method's own, before the attack; return the batch, with what the attack can use again."""
        return batch

    @abstractmethod
    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        """Solve the inner maximisation on the network's current weights.

        `budget` replaces the configured radius, step size and steps.
        """

    def shifted_weights(
        self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None
    ) -> AbstractContextManager[None]:
        """Return a context within which the weights are those that the loss is taken at; on leaving it restores them."""
        return nullcontext()

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Compute the outer minimisation's objective, a batch mean."""

    def perturb_and_loss(
        self, attacked: nn.Module, model: nn.Module, batch: Batch, phase: Phase = None
    ) -> tuple[Perturbation, Loss]:
        """Return `perturb` on `attacked` and `loss` on `model`, two forms of the same weights.

        A method whose loss repeats a forward pass of its attack makes it once here. Wrappers do not pass this on: they may
        change the weights or the budget in between.
        """
        perturbation = self.perturb(attacked, batch, phase)
        return perturbation, self.loss(model, batch, perturbation, phase)

    def commit(self, batch: Batch, perturbation: Perturbation, loss: Loss) -> None:  # noqa: B027
        """Remember what the next step or epoch needs, after the weights moved."""

    def metrics(self) -> Mapping[str, Tensor]:
        """Return figures of the epoch that just ended, by name: numbers, and vectors for a file of their own.

        The names are the same in every epoch; a number that an epoch has none of is NaN.
        """
        return {}

    def inspect(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return what the method would do to each of these images, (B,) by name, without changing anything."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the class's name and everything in the `state()` fields, by field name; None where `setup` left one out."""
        contents = {name: _saved(vars(self).get(name)) for name in self._state_fields()}
        return {"method": type(self).__name__, **contents}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` gave, after `setup`; raises BadInput if it came from another method."""
        if saved.get("method") != type(self).__name__:
            raise BadInput(
                f"This checkpoint was written by the method {saved.get('method')}, not {type(self).__name__}: "
                "resume it with its own configuration."
            )
        for name in self._state_fields():
            current, value = vars(self).get(name), saved[name]
            if isinstance(current, Stateful):
                current.load_state_dict(value)
            elif isinstance(current, Tensor):
                current.copy_(value)
            else:
                setattr(self, name, value)

    def _state_fields(self) -> list[str]:
        return [f.name for f in fields(self) if f.metadata.get("state")]


def _saved(value: Any) -> Any:
    return value.state_dict() if isinstance(value, Stateful) else value
