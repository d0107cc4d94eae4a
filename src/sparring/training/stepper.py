"""Takes the training steps of a run: each as it comes, or as the replay of one that was recorded.

A step's operations depend on nothing but tensors, which a replay reads anew, and on what Python holds: numbers, flags and
objects. Those of the method and of the optimizer are compared before every step; as long as they are what they were when a
step was recorded, that step can be replayed, and where they differ another one is recorded.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from sparring.data import Batch, Resident
from sparring.learner import Gradients, Learner
from sparring.methods import Method
from sparring.methods.base import layers
from sparring.training.recorder import Recorder, Recording
from sparring.training.step import Step, steer, turn

_REHEARSALS = 2  # of each kind of step: optimizers make their state in a first one, libraries choose their kernels
_KEPT = 8  # recordings; a method whose numbers change with every epoch leaves one behind each time
_PATIENCE = 40  # steps of ever new kinds in a row, after which nothing is expected to come back
_LOG = logging.getLogger(__name__)
_NUMBERS = (int, float, bool, str, bytes, Fraction, type(None), torch.dtype)


@dataclass(frozen=True)
class Taken:
    """A step that was taken, and the batch that it was taken on."""

    batch: Batch
    step: Step


@dataclass(frozen=True)
class _Recorded:
    recording: Recording
    draw: Tensor  # (4, B), where the next batch is written before a replay
    taken: Taken
    gradients: Gradients
    changes: tuple[_Change, ...]


@dataclass(frozen=True)
class _Change:
    """What a step's Python left in an attribute."""

    owner: Method
    name: str
    value: Any


class Stepper:
    """Takes steps of a method on a learner, with batches from `data`; with a recorder it replays what it can."""

    def __init__(self, method: Method, target: Learner, data: Resident, recorder: Recorder | None = None) -> None:
        self._method, self._target, self._data, self._recorder = method, target, data, recorder
        self._seen: Counter[Hashable] = Counter()  # how often each kind of step was rehearsed
        self._recorded: dict[Hashable, _Recorded] = {}  # the latest last
        self._fresh = 0  # steps since one was of a known kind
        self.refusal = ""  # why steps are no longer recorded
        if recorder is not None:
            target.steer_on_device()
            _let_be_recorded(method, target)

    def take(self, draw: Tensor) -> Taken:
        """One training step, all its replays, on the batch that `draw` (4, B) stands for."""
        for _ in range(self._method.replays):
            steer(self._method, self._target)
            taken = self._turn(draw)
        return taken

    @property
    def recordings(self) -> int:
        """How many kinds of steps are held."""
        return len(self._recorded)

    def _turn(self, draw: Tensor) -> Taken:
        if self._recorder is None:
            return self._live(draw)
        kind = (tuple(draw.shape), self._target.momentum, self._target.loads, *_phase(self._method))
        if kind in self._recorded:
            return self._replay(kind, draw)
        if self._seen[kind] == _REHEARSALS:
            return self._record(kind, draw)
        self._seen[kind] += 1
        self._fresh = self._fresh + 1 if self._seen[kind] == 1 else 0
        if self._fresh == _PATIENCE:
            self._give_up("its settings change with every step")
            return self._live(draw)
        taken = self._recorder.rehearse(lambda: self._live(draw))
        # Waits in the first rehearsal may be of what is only done once, such as making an optimizer's state.
        if self._seen[kind] == _REHEARSALS and self._recorder.obstacle:
            self._give_up(self._recorder.obstacle)
        return taken

    def _live(self, draw: Tensor) -> Taken:
        batch = self._data.show(draw)
        return Taken(batch, turn(self._method, self._target, batch))

    def _record(self, kind: Hashable, draw: Tensor) -> Taken:
        """Record this step and then take it; where it cannot be recorded, only take it."""
        assert self._recorder is not None
        kept, steps, before = draw.clone(), self._target.steps, _attributes(self._method)
        try:
            recording, taken = self._recorder.record(lambda: _settled(self._live(kept)))
        except RuntimeError as error:
            _restore(before)
            self._target.steps = steps
            self._give_up(f"it cannot be recorded ({str(error).splitlines()[0]})")
            return self._live(draw)
        changes = _changes(before, _attributes(self._method))
        self._target.steps = steps
        self._recorded[kind] = _Recorded(recording, kept, taken, self._target.gradients(), changes)
        while len(self._recorded) > _KEPT:
            del self._recorded[next(iter(self._recorded))]
        return self._replay(kind, draw)

    def _replay(self, kind: Hashable, draw: Tensor) -> Taken:
        recorded = self._recorded[kind] = self._recorded.pop(kind)  # the latest last
        recorded.draw.copy_(draw)
        recorded.recording.replay()
        self._target.adopt(recorded.gradients)
        self._target.steps += 1
        for change in recorded.changes:
            setattr(change.owner, change.name, change.value)
        self._fresh = 0
        return recorded.taken

    def _give_up(self, reason: str) -> None:
        self._recorder, self.refusal = None, reason
        self._recorded.clear()
        _LOG.warning("%s is not recorded as a CUDA graph: %s.", type(self._method).__name__, reason)


def _phase(method: Method) -> Iterator[Hashable]:
    """What the method's next step may depend on in its attributes: numbers, the tensors' places, which objects they are."""
    for layer in layers(method):
        silent = _silent(layer)
        for name, value in vars(layer).items():
            if name not in silent and not isinstance(value, Method):
                yield name
                yield from _value(value)


def _value(value: Any) -> Iterator[Hashable]:
    if isinstance(value, _NUMBERS):
        yield value
    elif isinstance(value, Tensor):
        yield value.data_ptr()
    elif isinstance(value, torch.optim.Optimizer):
        for group in value.param_groups:
            yield from (number for number in group.values() if isinstance(number, _NUMBERS))
    else:
        yield _This(value)


class _This:
    """An object that equals itself alone, and lives as long as what compares it."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _This) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _silent(method: Method) -> set[str]:
    """The names of what no step depends on."""
    return {field.name for field in fields(method) if not field.metadata.get("steers", True)}


def _attributes(method: Method) -> list[_Change]:
    return [_Change(layer, name, value) for layer in layers(method) for name, value in vars(layer).items()]


def _changes(before: list[_Change], after: list[_Change]) -> tuple[_Change, ...]:
    """What a step's Python has set to something else."""
    old = {(id(change.owner), change.name): change.value for change in before}
    missing = object()
    return tuple(new for new in after if _differs(old.get((id(new.owner), new.name), missing), new.value))


def _differs(old: Any, new: Any) -> bool:
    return old is not new and not (isinstance(new, _NUMBERS) and old == new)


def _restore(attributes: list[_Change]) -> None:
    for change in attributes:
        setattr(change.owner, change.name, change.value)


def _settled(taken: Taken) -> Taken:
    """Without autograd's graphs, whose memory would be kept with them."""
    loss, perturbation = taken.step.loss, taken.step.perturbation
    found = {field.name: getattr(perturbation, field.name) for field in fields(perturbation)}
    tensors = {name: value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    settled = Step(
        replace(loss, total=loss.total.detach(), logits=loss.logits.detach()), replace(perturbation, **tensors)
    )
    return Taken(taken.batch, settled)


def _let_be_recorded(method: Method, target: Learner) -> None:
    """Adam asks to be told, in a group's `capturable`, that its step may be recorded."""
    owned = [value for layer in layers(method) for value in vars(layer).values()]
    for optimizer in [target.optimizer, *(value for value in owned if isinstance(value, torch.optim.Optimizer))]:
        for group in optimizer.param_groups:
            if "capturable" in group and next(iter(group["params"])).is_cuda:
                group["capturable"] = True
