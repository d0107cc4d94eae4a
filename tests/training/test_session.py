"""A session: what it is made of, where it stands, and that it can go back."""

from __future__ import annotations

import pytest
import torch

from sparring.attacks import PGD
from sparring.averaging import EMA
from sparring.methods import CAT, LAS, MEP, SDI, TRADES, Free, Method
from tests.methods.harness import BATCH, STEPS_PER_EPOCH, Bench, data, identical, session

METHODS = [
    MEP,
    lambda: SDI(interval=2),
    lambda: Free(m=2),
    CAT,
    lambda: LAS(TRADES(attack=PGD(steps=14, start="normal"))),
]


@pytest.mark.parametrize("make", METHODS, ids=["MEP", "SDI", "Free", "CAT", "LAS"])
def test_what_follows_a_rollback_is_what_followed_the_snapshot(make) -> None:
    """Twice from one snapshot, bit for bit, however far the session has gone meanwhile."""
    subject = Bench(session(make(), average=EMA(0.9)))
    subject.steps(0, 3)
    snapshot = subject.session.snapshot()
    ends = []
    for further in (2, 4, 2):
        subject.steps(3, 3 + further)
        ends.append(subject.session.snapshot())
        subject.session.rollback(snapshot)
    assert identical(subject.session.state_dict(), snapshot)
    assert identical(ends[0], ends[2])
    assert not identical(ends[0]["learner"], ends[1]["learner"])


def test_a_snapshot_does_not_move_with_the_weights() -> None:
    subject = Bench(session(MEP()))
    subject.steps(0, 1)
    snapshot = subject.session.snapshot()
    before = [value.clone() for value in snapshot["learner"]["network"].values()]
    subject.steps(1, 3)
    assert identical(before, list(snapshot["learner"]["network"].values()))


def test_it_knows_which_batch_comes_next() -> None:
    subject = session(MEP())
    subject.begin_epoch()
    draws = list(subject.draws())
    for draw in draws[:3]:
        subject.step(draw)
    assert (subject.epoch, subject.batch) == (0, 3)
    assert torch.equal(next(subject.draws()), draws[3])
    subject.end_epoch()
    assert (subject.epoch, subject.batch) == (1, 0)
    assert len(list(subject.draws())) == STEPS_PER_EPOCH


def test_an_epoch_that_was_not_ended_has_no_batches_left() -> None:
    subject = session(MEP())
    subject.begin_epoch()
    for draw in subject.draws():
        subject.step(draw)
    assert list(subject.draws()) == []


def test_the_task_is_what_the_data_say() -> None:
    tasks = []

    class Curious(MEP):
        def setup(self, task) -> None:
            tasks.append(task)
            super().setup(task)

    subject = session(Curious())
    (task,), images = tasks, data()
    assert (task.samples, task.shape, task.canvas, task.classes) == (64, (1, 8, 8), (1, 10, 10), 10)
    assert (task.batch_size, task.held_out, task.epochs) == (BATCH, BATCH, 4)
    assert images.canvas == task.canvas
    assert subject.learner.total == 4 * STEPS_PER_EPOCH


@pytest.mark.parametrize(("method", "steps"), [(MEP(), 1), (Free(m=3), 3)])
def test_a_step_is_all_replays_of_a_batch(method: Method, steps: int) -> None:
    subject = session(method)
    subject.begin_epoch()
    subject.step(next(subject.draws()))
    assert subject.learner.steps == steps
    assert subject.batch == 1
