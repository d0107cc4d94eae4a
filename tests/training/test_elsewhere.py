"""A step happens on the device alone: nothing is read, made or kept on the host, as a CUDA graph demands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from sparring.averaging import EMA
from sparring.methods import Method, Standard
from sparring.training import train_step
from tests.methods.cases import CASES, Case
from tests.methods.harness import session
from tests.training.elsewhere import fabric, nothing_on_the_host, settled


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # What is compared between epochs are numbers, which this device has none of.
    monkeypatch.setattr("sparring.training.session.folding_agrees", lambda *_: True)
    with settled():
        yield


def steps(method: Method) -> None:
    """An epoch on the device; from the third step on, when optimizers have their state, nothing touches the host."""
    elsewhere = session(method, fabric=fabric(), clip=1.0, average=EMA(0.9))
    learner = elsewhere.learner
    learner.keep_rate_on_device()
    elsewhere.begin_epoch()
    for number, draw in enumerate(elsewhere.draws()):
        learner.set_rate()
        phase = method.phase(0, learner.steps)
        with nothing_on_the_host() if number >= 2 else nullcontext():
            train_step(method, learner, elsewhere.data.show(draw), phase)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_step_touches_nothing_on_the_host(case: Case) -> None:
    steps(case.make())


@dataclass
class Careless(Standard):
    """Does one of the things that the test above is to notice."""

    kind: str = ""

    def loss(self, model, batch, perturbation, phase=None):
        found = super().loss(model, batch, perturbation, phase)
        return replace(found, total=found.total * self._factor(batch.x))

    def _factor(self, x: Tensor) -> Tensor | float:
        match self.kind:
            case "reads":
                return float(x.mean())
            case "copies":
                return torch.ones(1).to(x.device)[0]
            case "mixes":
                return torch.ones(4)[:1]
            case "makes":
                return torch.tensor([2.0], device=x.device)[0]
            case "keeps":
                return torch.tensor(2.0)  # PyTorch takes such a one for a number, a capture for ever
        raise AssertionError


@pytest.mark.parametrize("kind", ["reads", "copies", "mixes", "makes", "keeps"])
def test_what_a_recording_could_not_hold_is_noticed(kind: str) -> None:
    with pytest.raises((AssertionError, RuntimeError), match="host|meta|device"):
        steps(Careless(kind=kind))
