"""Replay steps that were recorded: the operations of a step without the Python that led to them.

A step's operations depend on tensors, which a replay reads anew, and on the phases that method and learner name. Steps of
the same shapes and phases are replays of one recording; others are recorded apart.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from sparring.learner import Gradients, Learner
from sparring.methods import Method, Wrapper
from sparring.training.acceleration.cuda_graph import Recorder, Recording
from sparring.training.step import Step

_WARM_UPS = 2  # of each kind of step: optimizers make their state in a first one, libraries choose their kernels
_KEPT = 8  # recordings; a method whose phase changes with every epoch leaves one behind each time
_PATIENCE = 40  # steps of ever new kinds in a row, after which nothing is expected to come back
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Recorded:
    recording: Recording
    draw: Tensor  # (4, B), where the next batch is written before a replay
    step: Step
    gradients: Gradients


class Replayer:
    """Takes steps of a method on a learner: live, until they have been recorded, and from then on as replays."""

    def __init__(self, method: Method, target: Learner, recorder: Recorder) -> None:
        self._method, self._target, self._recorder = method, target, recorder
        self._seen: Counter[Hashable] = Counter()  # how often each kind of step was taken live
        self._recorded: dict[Hashable, _Recorded] = {}  # the latest last
        self._fresh = 0  # steps since one was of a known kind
        self.refusal = ""  # why steps are no longer recorded
        target.keep_rate_on_device()

    @property
    def recordings(self) -> int:
        """How many kinds of steps are held."""
        return len(self._recorded)

    def take(self, phase: Hashable, draw: Tensor, live: Callable[[Tensor], Step]) -> Step:
        """Take one optimizer step on the batch that `draw` (4, B) stands for; `live` would take it as it comes."""
        self._target.set_rate()
        if self.refusal:
            return live(draw)
        kind = (tuple(draw.shape), self._target.phase, phase)
        if kind in self._recorded:
            return self._replay(kind, draw)
        if self._seen[kind] == _WARM_UPS:
            return self._record(kind, draw, live)
        self._seen[kind] += 1
        self._fresh = self._fresh + 1 if self._seen[kind] == 1 else 0
        if self._fresh == _PATIENCE:
            self._give_up("its phase changes with every step")
            return live(draw)
        step = self._recorder.warm_up(lambda: live(draw))
        # Waits in the first one may be of what is only done once, such as making an optimizer's state.
        if self._seen[kind] == _WARM_UPS and self._recorder.obstacle:
            self._give_up(self._recorder.obstacle)
        return step

    def _record(self, kind: Hashable, draw: Tensor, live: Callable[[Tensor], Step]) -> Step:
        """Record this step and then take it; where it cannot be recorded, only take it."""
        kept, before = draw.clone(), list(_attributes(self._method))
        try:
            with self._target.uncounted():
                recording, step = self._recorder.record(lambda: _without_graphs(live(kept)))
                gradients = self._target.gradients()
            obstacle = _rebound(before)
        except RuntimeError as error:
            obstacle = f"it cannot be recorded ({str(error).splitlines()[0]})"
        if obstacle:
            for owner, name, value in before:
                setattr(owner, name, value)
            self._give_up(obstacle)
            return live(draw)
        self._recorded[kind] = _Recorded(recording, kept, step, gradients)
        while len(self._recorded) > _KEPT:
            del self._recorded[next(iter(self._recorded))]
        return self._replay(kind, draw)

    def _replay(self, kind: Hashable, draw: Tensor) -> Step:
        recorded = self._recorded[kind] = self._recorded.pop(kind)  # the latest last
        recorded.draw.copy_(draw)
        recorded.recording.replay()
        self._target.note_replay(recorded.gradients)
        self._fresh = 0
        return recorded.step

    def _give_up(self, reason: str) -> None:
        self.refusal = reason
        self._recorded.clear()
        _LOG.warning("%s is not recorded as a CUDA graph: %s.", type(self._method).__name__, reason)


def _without_graphs(step: Step) -> Step:
    """Detach what autograd would otherwise keep, with its memory, as long as the recording."""
    perturbation, loss = step.perturbation, step.loss
    found = {field.name: getattr(perturbation, field.name) for field in fields(perturbation)}
    tensors = {name: value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    return replace(
        step,
        perturbation=replace(perturbation, **tensors),
        loss=replace(loss, total=loss.total.detach(), logits=loss.logits.detach()),
    )


def _attributes(method: Method) -> Iterator[tuple[Method, str, Any]]:
    yield from ((method, name, value) for name, value in vars(method).items())
    if isinstance(method, Wrapper):
        yield from _attributes(method.inner)


def _rebound(before: list[tuple[Method, str, Any]]) -> str:
    """Name what a step put in another's place, which its replay would not do; empty if nothing."""
    for owner, name, value in before:
        if getattr(owner, name) is not value:
            return (
                f"a step sets its attribute {name}, which a replay would not: keep it in a tensor, or name it in phase"
            )
    return ""
