"""AWP against a transcription of its card, in float64, and what it must leave as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.data import Batch
from sparring.errors import BadInput
from sparring.methods import AWP, MEP, TRADES, AdversarialTraining, Method, Standard
from sparring.threat import Budget
from tests.methods.harness import train_on
from tests.methods.mart import mart, mart_example, mart_loss
from tests.methods.reference import (
    EPS,
    Plain,
    assert_same,
    batches,
    divergence,
    learner,
    linf_pgd,
    network,
    set_up,
    smoothed_cross_entropy,
)

pytestmark = pytest.mark.usefixtures("double_precision")


def pgd() -> AdversarialTraining:
    return AdversarialTraining(PGD(steps=2, alpha=0.06, start="zero", bn="eval"))


def trades() -> TRADES:
    return TRADES(beta=6.0, attack=PGD(steps=2, alpha=0.06, start="normal", bn="eval"))


def _pgd_example(plain: Plain, batch: Batch) -> Tensor:
    start = torch.zeros_like(batch.x)
    with plain.mode("eval"):
        return linf_pgd(plain.network, batch.x, start, lambda z: smoothed_cross_entropy(z, batch.y).sum(), EPS, 0.06, 2)


def _pgd_loss(model: nn.Module, batch: Batch, x_adv: Tensor) -> Tensor:
    return smoothed_cross_entropy(model(x_adv), batch.y).mean()


def _trades_example(plain: Plain, batch: Batch) -> Tensor:
    noise = 1e-3 * torch.randn(batch.x.shape)
    with plain.mode("eval"):
        clean = plain.network(batch.x).detach()
        return linf_pgd(plain.network, batch.x, noise, lambda z: divergence(clean, z).sum(), EPS, 0.06, 2)


def _trades_loss(model: nn.Module, batch: Batch, x_adv: Tensor) -> Tensor:
    clean, adversarial = model(batch.x), model(x_adv)
    return smoothed_cross_entropy(clean, batch.y).mean() + 6 * divergence(clean, adversarial).mean()


INNER = {
    "PGD": (pgd, _pgd_example, _pgd_loss),
    "TRADES": (trades, _trades_example, _trades_loss),
    "MART": (mart, mart_example, mart_loss),
}


def _pgd_as_released(plain: Plain, batch: Batch) -> Tensor:
    start = torch.zeros_like(batch.x)
    with plain.mode("train"):
        ascended = (lambda z: smoothed_cross_entropy(z, batch.y).sum(), EPS, 0.06, 2)
        x_adv = linf_pgd(plain.network, batch.x, start, *ascended)
        plain.network(x_adv)  # to choose among restarts
    return x_adv


def pgd_as_released() -> AdversarialTraining:
    return AdversarialTraining(PGD(steps=2, alpha=0.06, start="zero", bn="train"), extra_forwards=True)


INNER["PGD as released"] = (pgd_as_released, _pgd_as_released, _pgd_loss)


@pytest.mark.parametrize("gamma", [0.005, 0.05])
@pytest.mark.parametrize(("make", "example", "objective"), INNER.values(), ids=INNER.keys())
def test_awp_steps_as_its_card_says(make: Callable[[], Method], example, objective, gamma: float) -> None:
    """v_l = gamma ||w_l|| g_l / ||g_l||; w <- SGD(w) with the gradient at w + v and the weight decay of w.

    (The released code also decays at w + v, as the docstring of AWP says.) The attack is made at w.
    """
    method = set_up(AWP(make(), gamma=gamma))
    subject, plain = learner(), Plain()
    for step, batch in enumerate(batches()[:3]):
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        x_adv = example(plain, batch)
        with plain.mode("train_frozen_stats"):
            ascent = plain.gradients(objective(plain.network, batch, x_adv))
        weights = list(plain.network.parameters())
        original = [w.detach().clone() for w in weights]
        with torch.no_grad():
            for w, g in zip(weights, ascent, strict=True):
                if w.ndim > 1:
                    w.add_(gamma * w.square().sum().sqrt() * g / g.square().sum().sqrt())
        shifted = objective(plain.network, batch, x_adv)
        gradients = plain.gradients(shifted)
        with torch.no_grad():
            for w, value in zip(weights, original, strict=True):
                w.copy_(value)
        plain.descend(gradients)
        if getattr(method.inner, "extra_forwards", False):
            plain.network(batch.x)

        torch.testing.assert_close(loss.total, shifted, rtol=0, atol=1e-10)
    assert_same(subject, plain)


@pytest.mark.parametrize("make", [pgd, trades, MEP], ids=["PGD", "TRADES", "MEP"])
def test_matrices_move_by_gamma_of_their_size_and_nothing_else_moves(make: Callable[[], Method]) -> None:
    method, model, batch = set_up(AWP(make(), gamma=0.03)), network(), batches()[0]
    perturbation = method.perturb(model, batch)
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    with method.shifted_weights(model, batch, perturbation):
        matrices = 0
        for name, value in model.state_dict().items():
            if name.endswith("weight") and value.ndim > 1:
                matrices += 1
                shift = (value - before[name]).norm() / before[name].norm()
                assert shift.item() == pytest.approx(0.03, rel=1e-9), name
            else:
                assert torch.equal(value, before[name]), name
        assert matrices == 5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_shift_raises_the_loss() -> None:
    method, model, batch = set_up(AWP(pgd(), gamma=0.001)), network(), batches()[0]
    perturbation = method.perturb(model, batch)
    at_rest = method.loss(model, batch, perturbation).total
    with method.shifted_weights(model, batch, perturbation):
        shifted = method.loss(model, batch, perturbation).total
    assert shifted > at_rest + 1e-4


@pytest.mark.parametrize(("make", "forwards"), [(pgd, 1), (trades, 2), (MEP, 2)], ids=["PGD", "TRADES", "MEP"])
def test_the_running_statistics_move_in_the_shifted_forward_only(make: Callable[[], Method], forwards: int) -> None:
    method, subject = set_up(AWP(make())), learner()
    train_on(method, subject, batches()[0])
    counts = [value for name, value in subject.network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts == [forwards] * 4


def test_the_weights_come_back_when_the_loss_fails() -> None:
    method, model, batch = set_up(AWP(pgd())), network(), batches()[0]
    perturbation = method.perturb(model, batch)
    before = [weight.detach().clone() for weight in model.parameters()]
    with pytest.raises(RuntimeError, match="broken"), method.shifted_weights(model, batch, perturbation):
        raise RuntimeError("broken")
    assert all(torch.equal(weight, value) for weight, value in zip(model.parameters(), before, strict=True))


def test_frozen_weights_are_not_shifted() -> None:
    method, model, batch = set_up(AWP(pgd())), network(), batches()[0]
    frozen = next(weight for weight in model.parameters() if weight.ndim > 1).requires_grad_(False)
    before = frozen.clone()
    with method.shifted_weights(model, batch, method.perturb(model, batch)):
        assert torch.equal(frozen, before)


def test_a_matrix_that_the_loss_does_not_use_stays() -> None:
    method, model, batch = set_up(AWP(pgd())), network(), batches()[0]
    model.spare = nn.Linear(3, 3)
    before = model.spare.weight.detach().clone()
    with method.shifted_weights(model, batch, method.perturb(model, batch)):
        assert torch.equal(model.spare.weight, before)


def test_warming_up_is_training_with_the_inner_method() -> None:
    method, inner = set_up(AWP(pgd(), warmup=2)), set_up(pgd())
    subject, plain = learner(), learner()
    for epoch in range(3):
        for bench, trained in ((method, subject), (inner, plain)):
            bench.begin_epoch(epoch)
            train_on(bench, trained, batches(epoch)[0], epoch)
        same = all(
            torch.equal(a, b) for a, b in zip(subject.network.parameters(), plain.network.parameters(), strict=True)
        )
        assert same == (epoch < 2)


def test_a_budget_reaches_the_inner_method() -> None:
    method, model, batch = set_up(AWP(pgd())), network(), batches()[0]
    delta = method.perturb(model, batch, budget=Budget(0.01, 0.01, 1)).delta
    assert delta.abs().amax((1, 2, 3)).tolist() == pytest.approx([0.01] * len(batch.y))


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadInput, match="gamma > 0, not 0"):
        AWP(Standard(), gamma=0)
    with pytest.raises(BadInput, match="warmup >= 0 epochs, not -1"):
        AWP(Standard(), warmup=-1)
