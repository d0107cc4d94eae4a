"""Free-AT against a transcription of its card, in float64: replay by replay, with the perturbation that it carries over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparring.attacks import PGD
from sparring.data import Augment, Batch, Data
from sparring.errors import BadInput
from sparring.experiment import Experiment, Model, train
from sparring.methods import AWP, LAS, SAT, AdversarialTraining, Free
from sparring.optimisation import Optimisation
from sparring.schedule import Cyclic
from sparring.threat import Threat
from sparring.training import Selection
from sparring.training.progress import Silent
from tests.methods import harness
from tests.methods.harness import part, train_on
from tests.methods.reference import (
    EPS,
    Plain,
    assert_same,
    ball_and_box,
    batches,
    learner,
    network,
    set_up,
    smoothed_cross_entropy,
)

pytestmark = pytest.mark.usefixtures("double_precision")


# Fidelity --------------------------------------------------------------------------------------------------------------


def replay(plain: Plain, batch: Batch, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """grad_theta and grad_x from one backward pass; theta moves; delta' = clip(delta + eps sign grad_x), in the box."""
    point = (batch.x + delta).requires_grad_()
    logits = plain.network(point)
    loss = smoothed_cross_entropy(logits, batch.y).mean()
    *of_weights, of_pixels = torch.autograd.grad(loss, [*plain.network.parameters(), point])
    plain.descend(of_weights)
    moved = ball_and_box(batch.x + delta + EPS * of_pixels.sign(), batch.x, EPS) - batch.x
    return moved, loss, logits


@pytest.mark.parametrize("box", ["all", "final"])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_free_steps_as_its_card_says(m: int, box) -> None:
    """A batch smaller than the others meets, and moves, the first rows of the buffer."""
    method = set_up(Free(m=m, box=box))
    subject, plain = learner(), Plain()
    kept, outside = torch.zeros(16, 1, 8, 8), 0
    for epoch in range(2):
        first, second, third, last = batches(epoch)
        for batch in (first, second, part(third, slice(5)), last):
            loss = train_on(method, subject, batch).loss

            x, rows = batch.x, slice(len(batch.y))
            for _ in range(m):
                outside += bool((x + kept[rows]).min() < -0.01)
                delta = (x + kept[rows]).clamp(0, 1) - x if box == "all" else kept[rows]
                kept[rows], expected, logits = replay(plain, batch, delta)

            torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
            torch.testing.assert_close(loss.logits, logits, rtol=0, atol=1e-10)
            torch.testing.assert_close(method.buffer, kept, rtol=0, atol=1e-10)
    assert_same(subject, plain)
    assert outside == 7, "each batch but the first begins with perturbations of other images"


def test_the_perturbation_of_a_step_is_what_the_step_before_ended_with() -> None:
    """And what was handed out does not change with the buffer."""
    method, batch = set_up(Free(m=1, box="final")), batches()[0]
    subject = learner()
    train_on(method, subject, batch)
    left = method.buffer.clone()
    assert left.any()
    step = train_on(method, subject, batches()[1])
    assert torch.equal(step.perturbation.delta, left)
    assert not torch.equal(method.buffer, left)


def test_the_perturbation_moves_along_the_gradient_at_the_weights_before_the_step() -> None:
    """The one backward pass is of those weights: the card's grad_x and grad_theta come together."""
    method, batch, before = set_up(Free(m=1)), batches()[0], network()
    train_on(method, learner(), batch)
    x = batch.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(smoothed_cross_entropy(before(x), batch.y).sum(), x)
    expected = ball_and_box(batch.x + EPS * gradient.sign(), batch.x, EPS) - batch.x
    torch.testing.assert_close(method.buffer, expected, rtol=0, atol=1e-12)


def test_a_replay_shows_the_network_its_images_once_unlike_the_gradalign_repository_s_second_forward() -> None:
    method, subject = set_up(Free(m=3)), learner()
    train_on(method, subject, batches()[0])
    counts = [value for name, value in subject.network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts == [3] * 4
    assert subject.steps == 3


def test_an_l2_perturbation_moves_by_the_radius_along_the_gradient() -> None:
    method, batch = set_up(Free(m=1, box="final"), harness.L2), batches()[0]
    train_on(method, learner(), batch)
    x = batch.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(smoothed_cross_entropy(network()(x), batch.y).sum(), x)
    unit = gradient / gradient.square().sum((1, 2, 3), keepdim=True).sqrt()
    expected = (batch.x + 0.5 * unit).clamp(0, 1) - batch.x
    torch.testing.assert_close(method.buffer, expected, rtol=0, atol=1e-12)


# In a run --------------------------------------------------------------------------------------------------------------


def run(method: Free, folder: Path, epochs: int = 2) -> list[dict]:
    """256 digits in batches of 100, 100 and 56; the rows of its metrics."""
    torch.set_default_dtype(torch.float32)
    chosen = Experiment(
        method=method,
        data=Data(limit=300, validation=44, augment=Augment(pad=1, flip=True)),
        model=Model(width=4),
        threat=Threat(eps=0.2),
        optimisation=Optimisation(epochs=epochs, batch_size=100, schedule=Cyclic()),
        selection=Selection(attack="pgd-2"),
    )
    return train(chosen, folder, report=Silent()).metrics()


@pytest.mark.parametrize("m", [1, 4])
def test_an_epoch_takes_m_optimizer_steps_a_batch_and_the_schedule_spans_them_all(m, tmp_path, monkeypatch) -> None:
    asked = []

    def factor(self: Cyclic, step: int, total: int) -> float:
        asked.append((step, total))
        return 1.0

    monkeypatch.setattr(Cyclic, "factor", factor)
    rows = run(Free(m=m), tmp_path)
    assert [row["steps"] for row in rows] == [3 * m, 6 * m]
    assert {total for _, total in asked} == {6 * m}
    assert set(range(6 * m)) <= {step for step, _ in asked}


def test_an_epoch_is_a_pass_over_all_images_unlike_the_gradalign_repository_s_which_skips_most(
    tmp_path, monkeypatch
) -> None:
    """Its replays take the place of further batches, (m - 1) / m of the data; here each image is shown m times."""
    shown: Counter[int] = Counter()
    original = Free.loss

    def loss(self, model, batch, perturbation, phase=None):
        shown.update(batch.index.tolist())
        return original(self, model, batch, perturbation)

    monkeypatch.setattr(Free, "loss", loss)
    run(Free(m=4), tmp_path, epochs=1)
    assert shown == dict.fromkeys(range(256), 4)


# Refusals --------------------------------------------------------------------------------------------------------------


def test_fewer_than_one_replay_is_refused() -> None:
    with pytest.raises(BadInput, match="m >= 1 replays of each batch, not 0"):
        Free(m=0)


@pytest.mark.parametrize(
    ("wrapper", "reason"),
    [
        (AWP, "AWP takes the loss at other weights, and Free takes its attack from the loss's own backward pass"),
        (LAS, "LAS chooses every image's attack, and Free leaves it nothing to choose"),
        (SAT, "SAT ends attacks early, and Free has none to end"),
    ],
)
def test_wrappers_that_need_an_attack_of_its_own_are_refused(wrapper, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        wrapper(Free()).setup(harness.task())
    wrapper(AdversarialTraining(PGD(steps=20))).setup(harness.task())


def test_the_defaults_are_the_paper_s() -> None:
    assert Free() == Free(m=8, box="all")
    assert Free(m=5).traits().replays == 5
