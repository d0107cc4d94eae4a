"""BatchNorm folded in attacks: compared with the network itself every epoch, and given up where that would be wrong."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.methods import AdversarialTraining
from sparring.models import foldable, folded
from sparring.training.folding import folding_agrees
from tests.methods.harness import STEPS_PER_EPOCH, Bench, identical, network, session


class Turncoat(nn.Module):
    """Has no input gradient where its norm is folded away, but answers a single image, as `foldable` asks one."""

    def __init__(self, *, once_trained: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.part = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 10)
        self.once_trained = once_trained

    def forward(self, x: Tensor) -> Tensor:
        features = self.part(x)
        due = not self.once_trained or bool(self.part[1].running_mean.any())
        if "forward" in vars(self.part[1]) and len(x) > 1 and due:
            features = features.detach() + 0 * x.mean()
        return self.head(features.relu().mean((2, 3)))


def pgd_at() -> AdversarialTraining:
    return AdversarialTraining(PGD(steps=3, bn="eval"))


def test_a_network_that_answers_otherwise_is_trained_as_if_nothing_were_folded(monkeypatch, caplog) -> None:
    assert foldable(Turncoat(), (1, 8, 8)), "this test would see nothing"
    ends = []
    for folds in (True, False):
        if not folds:
            monkeypatch.setattr("sparring.training.session.foldable", lambda *_: ())
        subject = Bench(session(pgd_at(), model=Turncoat()))
        with caplog.at_level(logging.WARNING):
            subject.steps(0, 3)
        ends.append(subject.learner.network.state_dict())
        assert not subject.learner.folds
    assert identical(*ends)
    assert [record.message for record in caplog.records if "no longer folded" in record.message] == [
        "BatchNorm is no longer folded in attacks: with it folded, the network answers the images of epoch 0 otherwise. "
        "Steps are right, and slower."
    ]


def test_it_is_compared_again_every_epoch() -> None:
    subject = Bench(session(pgd_at(), model=Turncoat(once_trained=True)))
    subject.steps(0, STEPS_PER_EPOCH)
    assert subject.learner.folds, "on the first images it was right, and nobody asks in the middle of an epoch"
    subject.steps(STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1)
    assert not subject.learner.folds


def test_a_resumed_run_folds_as_the_run_did() -> None:
    """In the middle of an epoch nothing is compared, so what was found is in the state."""
    ran = Bench(session(pgd_at(), model=Turncoat()))
    ran.steps(0, 2)
    resumed = Bench(session(pgd_at(), model=Turncoat()))
    assert resumed.learner.folds
    before = resumed.session.snapshot()
    resumed.session.load_state_dict(ran.session.snapshot())
    assert not resumed.learner.folds
    for subject in (ran, resumed):
        subject.steps(2, STEPS_PER_EPOCH)
    assert identical(ran.state(), resumed.state())
    resumed.session.rollback(before)
    assert resumed.learner.folds, "at its beginning it was folded, and has to be compared anew"


def test_a_checkpoint_of_a_version_that_always_folded_is_read() -> None:
    subject = Bench(session(pgd_at()))
    state = subject.session.snapshot()
    del state["learner"]["folds"]
    subject.session.load_state_dict(state)
    assert subject.learner.folds


def test_a_captured_step_is_captured_anew_where_folding_ends() -> None:
    learner = session(pgd_at()).learner
    before = learner.phase
    learner.stop_folding()
    assert learner.phase != before


def test_comparing_leaves_network_and_generator_as_they_were() -> None:
    model = network()
    before, drawn = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    assert folding_agrees(model, foldable(model, (1, 8, 8)), torch.rand(16, 1, 8, 8, generator=torch.Generator()))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert identical(before, model.state_dict())
    assert torch.equal(drawn, torch.get_rng_state())


class Refuses(Turncoat):
    def forward(self, x: Tensor) -> Tensor:
        if "forward" in vars(self.part[1]):
            raise RuntimeError("no")
        return super().forward(x)


class NotANumber(Turncoat):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.nan


class Broken(Turncoat):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken")


@pytest.mark.parametrize(("make", "agrees"), [(Refuses, False), (NotANumber, True), (Broken, True)])
def test_errors_that_are_due_to_folding_end_it_and_others_do_not(make, agrees: bool) -> None:
    model = make()
    folds = (("part.0", "part.1"),)
    assert folding_agrees(model, folds, torch.rand(4, 1, 8, 8)) is agrees
    with folded(model, folds):  # nothing was left folded by the comparison: this folds, and puts back
        assert "forward" in vars(model.part[1])
    assert "forward" not in vars(model.part[1])
