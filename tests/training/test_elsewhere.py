"""A step happens on the device alone: nothing is read, made or kept on the host, as a CUDA graph demands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from sparring.averaging import EMA
from sparring.data import Resident
from sparring.learner import Learner, Optimisation
from sparring.methods import Method, Standard
from sparring.models import foldable
from sparring.training.step import steer, turn
from tests.methods.cases import CASES, Case
from tests.methods.harness import AUGMENT, BATCH, SHAPE, STEPS_PER_EPOCH, digits, network, task
from tests.training.elsewhere import ELSEWHERE, fabric, nothing_on_the_host, settled


@pytest.fixture(autouse=True)
def _settled() -> Iterator[None]:
    with settled():
        yield


def steps(method: Method) -> None:
    """An epoch on the device; from the third step on, when optimizers have their state, nothing touches the host."""
    method.setup(replace(task(), device=ELSEWHERE))
    model = network()
    options = Optimisation(batch_size=BATCH, clip=1.0, average=EMA(0.9))
    learner = Learner(model, options, fabric(), total=STEPS_PER_EPOCH, folds=foldable(model, SHAPE))
    learner.steer_on_device()
    data = Resident(digits(), AUGMENT, BATCH, seed=0, device=ELSEWHERE)
    method.begin_epoch(0)
    for number, draw in enumerate(data.draws(0)):
        steer(method, learner)
        if number < 2:
            turn(method, learner, data.show(draw))
        else:
            with nothing_on_the_host():
                turn(method, learner, data.show(draw))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_step_touches_nothing_on_the_host(case: Case) -> None:
    steps(case.make())


@dataclass
class Careless(Standard):
    """Does one of the things that the test above is to notice."""

    kind: str = ""

    def loss(self, model, batch, perturbation):
        found = super().loss(model, batch, perturbation)
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
                return torch.tensor(2.0)  # PyTorch takes such a one for a number, a recording for ever
        raise AssertionError


@pytest.mark.parametrize("kind", ["reads", "copies", "mixes", "makes", "keeps"])
def test_what_a_recording_could_not_hold_is_noticed(kind: str) -> None:
    with pytest.raises((AssertionError, RuntimeError), match="host|meta|device"):
        steps(Careless(kind=kind))
