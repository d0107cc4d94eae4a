"""Replayed steps do what live ones do: for every method, under every rate, across epochs, with what they remember."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.averaging import EMA, SWA, Average
from sparring.errors import BadInput
from sparring.methods import AWP, CAT, MEP, SDI, AdversarialTraining, Free, Method, NuAT, Standard
from sparring.methods.base import state
from sparring.schedule import Cyclic, Schedule
from sparring.training.acceleration.cuda_graph import Capturer
from sparring.training.acceleration.plan import Plan
from sparring.training.acceleration.replay import Replayer
from sparring.training.progress import Silent
from tests.methods.cases import CASES, Case
from tests.methods.harness import BATCH, STEPS_PER_EPOCH, identical, network, session
from tests.training.acceleration.tape import TapeCapturer

EPOCHS = 5
TOTAL = EPOCHS * STEPS_PER_EPOCH


@dataclass
class Run:
    """A method trained epoch by epoch, as the trainer does it."""

    method: Method
    capturer: Capturer | None = None
    schedule: Schedule = field(default_factory=Cyclic)
    average: Average | None = None
    clip: float | None = None
    samples: int = BATCH * STEPS_PER_EPOCH
    model: nn.Module | None = None
    losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        chosen = {"epochs": EPOCHS, "schedule": self.schedule, "average": self.average, "clip": self.clip}
        self.session = session(self.method, model=self.model, samples=self.samples, capturer=self.capturer, **chosen)

    def train(self, epochs: int = EPOCHS) -> Run:
        for _ in range(epochs):
            self.session.begin_epoch()
            for draw in self.session.draws():
                step = self.session.step(draw)
                self.losses.append(step.loss.total.detach().clone())
                self.norms.append(self.session.learner.gradient_norm().clone())
            self.session.end_epoch()
        return self

    @property
    def replayer(self) -> Replayer:
        assert self.session.replayer is not None
        return self.session.replayer

    def state(self) -> dict:
        return _plain(self.session.state_dict())


def _plain(tree: object) -> Any:
    """With rates as numbers: they are tensors where steps are captured."""
    if isinstance(tree, dict):
        return {name: float(value) if name == "lr" else _plain(value) for name, value in tree.items()}
    return [_plain(value) for value in tree] if isinstance(tree, list) else tree


def assert_same(captured: Run, live: Run) -> None:
    assert torch.equal(torch.stack(captured.losses), torch.stack(live.losses))
    assert torch.equal(torch.stack(captured.norms), torch.stack(live.norms))
    assert identical(captured.state(), live.state())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_captured_run_is_bit_for_bit_a_live_one(case: Case) -> None:
    """Twenty steps over five epochs under a rate that changes with each: the same losses, weights and memories."""
    capturer = TapeCapturer()
    captured = Run(case.make(), capturer, average=EMA(0.99), clip=1.0).train()
    assert_same(captured, Run(case.make(), average=EMA(0.99), clip=1.0).train())
    assert sum(tape.played for tape in capturer.tapes) > 0


def test_most_steps_are_replayed_and_one_recording_serves_all_epochs() -> None:
    capturer = TapeCapturer()
    run = Run(MEP(), capturer).train()
    assert run.replayer.captures == 1
    assert [tape.played for tape in capturer.tapes] == [TOTAL - 2]
    assert capturer.warm_ups == 2


def test_a_smaller_last_batch_has_a_recording_of_its_own() -> None:
    capturer, samples = TapeCapturer(), BATCH * STEPS_PER_EPOCH - 3
    captured = Run(MEP(), capturer, samples=samples).train()
    assert_same(captured, Run(MEP(), samples=samples).train())
    assert sorted(tape.played for tape in capturer.tapes) == [EPOCHS - 2, EPOCHS * (STEPS_PER_EPOCH - 1) - 2]


def test_what_is_due_now_and_then_has_a_recording_of_its_own() -> None:
    capturer = TapeCapturer()
    Run(SDI(interval=4), capturer).train()
    assert sorted(tape.played for tape in capturer.tapes) == [TOTAL // 4 - 2, 3 * TOTAL // 4 - 2]


def test_replays_of_a_batch_are_replays() -> None:
    capturer = TapeCapturer()
    Run(Free(m=3), capturer).train(1)
    assert [tape.played for tape in capturer.tapes] == [3 * STEPS_PER_EPOCH - 2]


@pytest.mark.parametrize("average", [EMA(0.9), SWA("1/2")])
def test_the_average_s_share_may_change_with_every_step(average: Average) -> None:
    capturer = TapeCapturer()
    assert_same(Run(Standard(), capturer, average=average).train(), Run(Standard(), average=average).train())
    assert len(capturer.tapes) == 1


def test_weights_that_are_perturbed_from_some_epoch_on_are_captured_anew() -> None:
    capturer = TapeCapturer()
    captured = Run(AWP(Standard(), warmup=2), capturer).train()
    assert_same(captured, Run(AWP(Standard(), warmup=2)).train())
    assert len(capturer.tapes) == 2


@dataclass
class Counting(Standard):
    """A user's method whose loss depends on a plain counter that it moves in the step."""

    seen: int = state()

    def setup(self, task) -> None:
        self.seen = 0

    def loss(self, model, batch, perturbation, phase=None):
        found = super().loss(model, batch, perturbation, phase)
        return type(found)(found.total * (1 + self.seen % 3), found.logits)

    def commit(self, batch, perturbation, loss) -> None:
        self.seen += 1


@dataclass
class Replacing(Standard):
    """A user's method that puts another tensor in place of the one it remembers."""

    last: Tensor = state()

    def setup(self, task) -> None:
        self.last = torch.zeros(())

    def loss(self, model, batch, perturbation, phase=None):
        found = super().loss(model, batch, perturbation, phase)
        return type(found)(found.total + 0.1 * self.last * found.logits.square().mean(), found.logits)

    def commit(self, batch, perturbation, loss) -> None:
        self.last = self.last * 0.5 + 1


@pytest.mark.parametrize(
    ("method", "name"), [(Counting, "seen"), (Replacing, "last"), (lambda: AWP(Counting()), "seen")]
)
def test_a_step_that_sets_an_attribute_is_not_replayed(method, name: str, caplog) -> None:
    """A replay would not set it: the run goes on live, is right, and says why."""
    with caplog.at_level(logging.WARNING):
        captured = Run(method(), TapeCapturer()).train()
    assert_same(captured, Run(method()).train())
    assert f"a step sets its attribute {name}" in caplog.text


class Dimming(nn.Module):
    """A network whose logits depend on how often it was asked, counted in a way of three."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.inner = way, network()
        self.register_buffer("count", torch.zeros(()))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "number":
            self.calls += 1
        elif self.way == "new buffer":
            self.count = self.count + 1
        else:
            self.count += 1
        return self.inner(x) / (1 + 0.1 * (self.calls + self.count))


@pytest.mark.parametrize(("way", "name"), [("number", "calls"), ("new buffer", "count"), ("in place", "")])
def test_a_network_that_sets_an_attribute_is_not_replayed(way: str, name: str, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        captured = Run(Standard(), TapeCapturer(), model=Dimming(way)).train()
    assert_same(captured, Run(Standard(), model=Dimming(way)).train())
    assert (f"the network's Dimming sets its attribute {name}" in caplog.text) == bool(name)
    assert (captured.replayer.captures > 0) == (not name)


@dataclass
class Fickle(Standard):
    """A user's method that makes an attribute in one step and deletes it in the next."""

    def commit(self, batch, perturbation, loss) -> None:
        if hasattr(self, "extra"):
            del self.extra
        else:
            self.extra = loss.total.detach()


def test_attributes_that_come_and_go_are_seen(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        captured = Run(Fickle(), TapeCapturer()).train()
    assert_same(captured, Run(Fickle()).train())
    assert "a step sets its attribute extra" in caplog.text


@dataclass
class Phased(Standard):
    """A user's method that weighs every second step and names it."""

    def phase(self, epoch, step) -> int:
        return 1 + step % 2

    def loss(self, model, batch, perturbation, phase=1):
        found = super().loss(model, batch, perturbation)
        return type(found)(found.total * phase, found.logits)


def test_each_phase_has_a_recording_of_its_own() -> None:
    capturer = TapeCapturer()
    assert_same(Run(Phased(), capturer).train(), Run(Phased()).train())
    assert [tape.played for tape in capturer.tapes] == [TOTAL // 2 - 2] * 2


def test_a_state_that_was_loaded_is_not_overlooked() -> None:
    """Loading gives the optimizer other tensors than those that the capture writes to; CAT does it in mid-run."""

    def run(capturer: Capturer | None) -> Run:
        half = Run(MEP(), capturer).train(3)
        half.session.rollback(half.session.snapshot())
        return half.train(2)

    assert_same(run(TapeCapturer()), run(None))


def test_settings_that_change_with_every_step_end_the_search_for_captures(caplog, monkeypatch) -> None:
    monkeypatch.setattr("sparring.training.acceleration.replay._PATIENCE", 5)
    capturer = TapeCapturer()
    with caplog.at_level(logging.WARNING):
        captured = Run(Standard(), capturer, schedule=Cyclic(lowest_momentum=0.8)).train()
    assert capturer.warm_ups == 4
    assert "its phase changes with every step" in caplog.text
    assert_same(captured, Run(Standard(), schedule=Cyclic(lowest_momentum=0.8)).train())


class Refusing(TapeCapturer):
    """Fails as CUDA does where the host waits within a capture; by then Python has moved."""

    def capture(self, work):
        super().capture(work)
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


@pytest.mark.parametrize("method", [MEP, lambda: SDI(interval=2), lambda: Free(m=2)])
def test_a_step_that_cannot_be_captured_is_taken_all_the_same(method, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        captured = Run(method(), Refusing()).train()
    assert_same(captured, Run(method()).train())
    assert "cannot be captured (operation not permitted when stream is capturing)" in caplog.text


class Broken(TapeCapturer):
    """Fails so that PyTorch cannot go on, by when Python and memory have moved."""

    def capture(self, work):
        super().capture(work)
        raise BadInput("A training step could not be captured as a CUDA graph")


def test_where_nothing_can_go_on_the_run_ends_in_a_sentence_and_begins_anew_as_told(tmp_path, monkeypatch) -> None:
    """Not as a run that goes on: its level is a part of it."""
    short = ["--optimisation.epochs=2", "--data.limit=300", "--optimisation.batch_size=32", "--runtime.accelerator=cpu"]
    experiment = sparring.recipe("digits/standard", short)
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "capturer", lambda *_: Broken())
        with pytest.raises(BadInput, match="could not be captured"):
            sparring.train(experiment, tmp_path / "first", report=Silent())
    eager = replace(experiment, runtime=replace(experiment.runtime, level="eager"))
    with pytest.raises(BadInput, match="was started with another configuration"):
        sparring.train(eager, tmp_path / "first", resume=True, report=Silent())
    assert len(sparring.train(eager, tmp_path / "second", report=Silent()).metrics()) == 2


@dataclass
class Reading(Standard):
    """A user's method that looks at its loss: always, or once."""

    always: bool = True

    def phase(self, epoch, step) -> bool:
        return self.always

    def loss(self, model, batch, perturbation, phase=True):
        found = super().loss(model, batch, perturbation)
        if phase or _read_once():
            assert found.total.item() > 0
        return found


_UNREAD = [True]


def _read_once() -> bool:
    return bool(_UNREAD) and _UNREAD.pop()


def test_a_step_that_makes_the_host_wait_is_not_even_tried(caplog) -> None:
    """A capture that fails leaves PyTorch in a state that is hard to leave."""
    capturer = TapeCapturer()
    with caplog.at_level(logging.WARNING):
        captured = Run(Reading(), capturer).train()
    assert_same(captured, Run(Reading()).train())
    assert capturer.warm_ups == 2
    assert not capturer.tapes
    assert captured.replayer.refusal == "it reads a number"
    assert f"Reading is not captured as a CUDA graph: {captured.replayer.refusal}." in caplog.text


def test_what_only_the_first_step_reads_does_not_count() -> None:
    capturer = TapeCapturer()
    Run(Reading(always=False), capturer).train()
    assert [tape.played for tape in capturer.tapes] == [TOTAL - 2]


def test_old_captures_are_let_go(monkeypatch) -> None:
    monkeypatch.setattr("sparring.training.acceleration.replay._KEPT", 1)
    capturer = TapeCapturer()
    assert_same(Run(SDI(interval=2), capturer).train(), Run(SDI(interval=2)).train())


def test_what_a_replayed_step_found_holds_no_graph() -> None:
    run = Run(MEP(), TapeCapturer())
    run.session.begin_epoch()
    found = [run.session.step(draw) for draw in run.session.draws()][-1]
    assert not found.loss.total.requires_grad
    assert not found.loss.logits.requires_grad


def test_a_tape_notices_what_a_graph_would() -> None:
    """The stand-in itself: it freezes numbers, follows tensors, and undoes what it only captured."""
    counter, numbers = torch.zeros(3), {"by": 1.0}

    def work() -> Tensor:
        counter.add_(numbers["by"])
        return counter * 2 + torch.rand(3)

    torch.manual_seed(0)
    tape, result = TapeCapturer().capture(work)
    assert torch.equal(counter, torch.zeros(3))
    numbers["by"] = 5.0
    torch.manual_seed(0)
    tape.replay()
    assert torch.equal(counter, torch.ones(3))
    torch.manual_seed(0)
    assert torch.equal(result, 2 + torch.rand(3))
    with pytest.raises(AssertionError, match="cannot wait"):
        TapeCapturer().capture(lambda: counter.sum().item())


def test_methods_that_wait_say_so() -> None:
    assert NuAT().traits().host_waits
    assert AWP(NuAT()).traits().host_waits
    assert not CAT().traits().host_waits
    assert not AdversarialTraining().traits().host_waits
