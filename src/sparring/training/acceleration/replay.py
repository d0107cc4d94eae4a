"""Replay steps that were captured: the operations of a step without the Python that led to them.

A step's operations depend on tensors, which a replay reads anew, and on the phases that method and learner name. Steps of
the same shapes and phases are replays of one capture; others are captured apart.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor, nn

from sparring.learner import Gradients, Learner
from sparring.methods import Method, Wrapper
from sparring.training.acceleration.cuda_graph import Capture, Capturer
from sparring.training.step import Step

_WARM_UPS = 2  # of each kind of step: optimizers make their state in a first one, libraries choose their kernels
_KEPT = 8  # captures; a method whose phase changes with every epoch leaves one behind each time
_PATIENCE = 40  # steps of ever new kinds in a row, after which nothing is expected to come back
_LOG = logging.getLogger(__name__)
_ABSENT = object()


@dataclass(frozen=True)
class _Captured:
    capture: Capture
    draw: Tensor  # (4, B), where the next batch is written before a replay
    step: Step
    gradients: Gradients


class Replayer:
    """Takes steps of a method on a learner: live, until they have been captured, and from then on as replays."""

    def __init__(self, method: Method, target: Learner, capturer: Capturer) -> None:
        self._method, self._target, self._capturer = method, target, capturer
        self._seen: Counter[Hashable] = Counter()  # how often each kind of step was taken live
        self._captured: dict[Hashable, _Captured] = {}  # the latest last
        self._fresh = 0  # steps since one was of a known kind
        self.refusal = ""  # why steps are no longer captured
        target.keep_rate_on_device()

    @property
    def captures(self) -> int:
        """How many kinds of steps are held."""
        return len(self._captured)

    def take(self, phase: Hashable, draw: Tensor, live: Callable[[Tensor], Step]) -> Step:
        """Take one optimizer step on the batch that `draw` (4, B) stands for; `live` would take it as it comes."""
        self._target.set_rate()
        if self.refusal:
            return live(draw)
        kind = (tuple(draw.shape), self._target.phase, phase)
        if kind in self._captured:
            return self._replay(kind, draw)
        if self._seen[kind] == _WARM_UPS:
            return self._capture(kind, draw, live)
        self._seen[kind] += 1
        self._fresh = self._fresh + 1 if self._seen[kind] == 1 else 0
        if self._fresh == _PATIENCE:
            self._give_up("its phase changes with every step")
            return live(draw)
        step = self._capturer.warm_up(lambda: live(draw))
        # Waits in the first one may be of what is only done once, such as making an optimizer's state.
        if self._seen[kind] == _WARM_UPS and self._capturer.obstacle:
            self._give_up(self._capturer.obstacle)
        return step

    def _capture(self, kind: Hashable, draw: Tensor, live: Callable[[Tensor], Step]) -> Step:
        """Capture this step and then take it; where it cannot be captured, only take it."""
        kept, before = draw.clone(), _attributes(self._method, self._target.network)
        try:
            with self._target.uncounted():
                capture, step = self._capturer.capture(lambda: _without_graphs(live(kept)))
                gradients = self._target.gradients()
            obstacle = next(_rebound(before), "")
        except RuntimeError as error:
            obstacle = f"it cannot be captured ({str(error).splitlines()[0]})"
        if obstacle:
            _put_back(before)
            self._give_up(obstacle)
            return live(draw)
        self._captured[kind] = _Captured(capture, kept, step, gradients)
        while len(self._captured) > _KEPT:
            del self._captured[next(iter(self._captured))]
        return self._replay(kind, draw)

    def _replay(self, kind: Hashable, draw: Tensor) -> Step:
        captured = self._captured[kind] = self._captured.pop(kind)  # the latest last
        captured.draw.copy_(draw)
        captured.capture.replay()
        self._target.note_replay(captured.gradients)
        self._fresh = 0
        return captured.step

    def _give_up(self, reason: str) -> None:
        self.refusal = reason
        self._captured.clear()
        _LOG.warning("%s is not captured as a CUDA graph: %s.", type(self._method).__name__, reason)


def _without_graphs(step: Step) -> Step:
    """Detach what autograd would otherwise keep, with its memory, as long as the capture."""
    perturbation, loss = step.perturbation, step.loss
    found = {field.name: getattr(perturbation, field.name) for field in fields(perturbation)}
    tensors = {name: value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    return replace(
        step,
        perturbation=replace(perturbation, **tensors),
        loss=replace(loss, total=loss.total.detach(), logits=loss.logits.detach()),
    )


_Attributes = list[tuple[Any, dict[str, Any]]]  # owners, each with its attributes by name


def _attributes(method: Method, network: nn.Module) -> _Attributes:
    """Return those of the method, of what it wraps, and of the network's modules, their buffers included."""
    owners: list[Any] = [method]
    while isinstance(owners[-1], Wrapper):
        owners.append(owners[-1].inner)
    return [(owner, _held(owner)) for owner in (*owners, *network.modules())]


def _held(owner: Any) -> dict[str, Any]:
    return vars(owner) | (owner._buffers if isinstance(owner, nn.Module) else {})


def _rebound(before: _Attributes) -> Iterator[str]:
    """Yield what a step put in another's place, which its replay would not do."""
    for owner, held in before:
        now = _held(owner)
        for name in held.keys() | now.keys():
            if held.get(name, _ABSENT) is not now.get(name, _ABSENT):
                whose, remedy = (
                    (f"the network's {type(owner).__name__} sets its", "change a buffer in place")
                    if isinstance(owner, nn.Module)
                    else ("a step sets its", "keep it in a tensor, or name it in phase")
                )
                yield f"{whose} attribute {name}, which a replay would not: {remedy}"


def _put_back(before: _Attributes) -> None:
    for owner, held in before:
        for name in _held(owner).keys() - held.keys():
            delattr(owner, name)
        for name, value in held.items():
            if _held(owner).get(name, _ABSENT) is not value:
                setattr(owner, name, value)
