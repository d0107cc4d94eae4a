"""What every method and every composition must keep, whatever it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import frozen_statistics
from sparring.averaging import EMA
from sparring.errors import BadInput
from sparring.learner import Learner
from sparring.losses import cross_entropy
from sparring.methods import AWP, BP, MEP, TRADES, Standard
from sparring.training import checkpoint
from sparring.training.cost import step_cost
from tests.methods.cases import CASES, Case
from tests.methods.harness import L1, L2, LINF, batches, bench, flat, identical, network, task, train_on
from tests.syncs import NoHostSync

every_method = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@every_method
def test_a_resumed_run_ends_bit_for_bit_the_same(case: Case, tmp_path: Path) -> None:
    """8 steps = 5 steps + save + load into fresh objects + 3 steps, across an epoch's end."""
    whole = bench(case.make(), average=EMA(0.99))
    whole.steps(0, 8)

    interrupted = bench(case.make(), average=EMA(0.99))
    interrupted.steps(0, 5)
    checkpoint.save(interrupted.state(), tmp_path / "last.ckpt")
    resumed = bench(case.make(), seed=1, average=EMA(0.99))
    resumed.load(checkpoint.load(tmp_path / "last.ckpt"))
    resumed.steps(5, 8)

    assert identical(whole.state(), resumed.state())


@every_method
def test_what_a_method_remembers_matters(case: Case) -> None:
    """Without the method's state the same steps end elsewhere, exactly for the methods that claim to remember."""
    kept = bench(case.make())
    kept.steps(0, 5)
    forgetful = bench(case.make())
    forgetful.learner.load_state_dict(deepcopy(kept.learner.state_dict()))
    for bench_ in (kept, forgetful):
        bench_.steps(5, 10)
    assert identical(kept.learner.state_dict(), forgetful.learner.state_dict()) != case.remembers


@every_method
@pytest.mark.parametrize("threat", [LINF, L2, L1], ids=["Linf", "L2", "L1"])
def test_perturbations_stay_in_the_ball_and_the_box(case: Case, threat) -> None:
    if threat.norm not in case.norms:
        with pytest.raises(BadInput):
            bench(case.make(), threat)
        return
    subject = bench(case.make(), threat)
    subject.steps(0, 5)
    batch = batches(1)[1]
    delta = subject.method.perturb(subject.learner.attack_model, batch).delta
    assert threat.size(delta).max() <= (case.radius or case.reach * threat.eps) + 1e-6
    if "no box" in _name(case):
        return
    assert (batch.x + delta).min() >= -1e-6
    assert (batch.x + delta).max() <= 1 + 1e-6


@every_method
def test_the_step_never_reads_a_tensor(case: Case) -> None:
    subject = bench(case.make(), clip=1.0, average=EMA(0.99))
    subject.method.begin_epoch(0)
    batch = batches()[0]
    with NoHostSync():
        train_on(subject.method, subject.learner, batch)


@every_method
def test_perturbations_carry_no_graphs_and_leave_no_gradients(case: Case) -> None:
    subject = bench(case.make())
    subject.method.begin_epoch(0)
    perturbation = subject.method.perturb(subject.learner.attack_model, batches()[0])
    tensors = [getattr(perturbation, f.name) for f in fields(perturbation)]
    assert not any(value.requires_grad for value in tensors if isinstance(value, Tensor))
    assert all(parameter.grad is None for parameter in subject.learner.network.parameters())


@every_method
def test_the_network_is_put_back(case: Case) -> None:
    """Modes, gradient flags, statistic switches and weights after an attack and a weight perturbation, also failing ones."""
    subject = bench(case.make())
    model = subject.learner.attack_model
    subject.method.begin_epoch(0)
    batch = batches()[0]
    with _unchanged(subject.learner.network):
        perturbation = subject.method.perturb(model, batch)
        with subject.method.shifted_weights(model, batch, perturbation):
            pass
    with _unchanged(subject.learner.network), pytest.raises(_Broken):
        with subject.method.shifted_weights(model, batch, perturbation):
            raise _Broken
    if case.units > 3 and not subject.method.traits().one_pass:  # otherwise nothing is attacked
        with _unchanged(subject.learner.network), pytest.raises(_Broken):
            subject.method.perturb(nn.Sequential(model, _Breaking()), batch)


@every_method
def test_folding_batchnorm_away_in_attacks_changes_nothing(case: Case, monkeypatch) -> None:
    """In double precision, memories included: in single, rounding may turn a gradient's sign."""
    ends = []
    torch.set_default_dtype(torch.float64)
    try:
        for folds in (True, False):
            if not folds:
                monkeypatch.setattr("sparring.training.session.foldable", lambda *_: ())
            subject = bench(case.make(), precision="64-true")
            subject.steps(0, 6)
            ends.append([leaf for leaf in flat(subject.state()) if isinstance(leaf, Tensor)])
    finally:
        torch.set_default_dtype(torch.float32)
    for folded, raw in zip(*ends, strict=True):
        torch.testing.assert_close(folded, raw, rtol=1e-9, atol=1e-9)


class _Broken(Exception):
    pass


class _Breaking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise _Broken


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    def look() -> list:
        flags = [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()]
        return [flags, [p.requires_grad for p in model.parameters()], [p.detach().clone() for p in model.parameters()]]

    before = look()
    yield
    assert identical(before, look())


@every_method
def test_a_step_costs_what_the_mathematics_needs(case: Case) -> None:
    """Within 1% of the minimum in forward passes, counted in FLOPs; networks of the method's own included."""
    # The first layer, whose input needs no gradient in a full backward, must be a small part of the whole.
    subject = bench(case.make(), name="resnet18", width=case.width)
    subject.method.begin_epoch(0)
    first, second = (step_cost(subject.method, subject.learner, batch) for batch in batches()[:2])
    assert first == pytest.approx(case.units, rel=0.01)
    assert second == pytest.approx(case.units if case.later is None else case.later, rel=0.01)


@every_method
def test_the_step_learns(case: Case) -> None:
    """On sixty-four digits the loss falls within four epochs; where examples grow harder, the loss on clean ones."""
    subject = bench(case.make())
    before = _clean_loss(subject.learner)
    losses = [loss.total.item() for loss in subject.steps(0, 16)]
    if case.hardens:
        assert _clean_loss(subject.learner) < 0.95 * before
    else:
        assert sum(losses[-4:]) < sum(losses[:4])


def _clean_loss(learner: Learner) -> float:
    images = torch.cat([batch.x for batch in batches()]), torch.cat([batch.y for batch in batches()])
    with torch.no_grad(), frozen_statistics(learner.network):
        return cross_entropy(learner.network(images[0]), images[1]).mean().item()


@every_method
def test_the_step_works_in_mixed_precision(case: Case) -> None:
    losses = [loss.total for loss in bench(case.make(), precision="bf16-mixed").steps(0, 2)]
    assert all(loss.isfinite() for loss in losses)


@every_method
def test_a_network_of_any_class_can_be_attacked_in_float64(case: Case) -> None:
    """Methods keep the dtype of the images."""
    method = case.make()
    method.setup(task())
    method.begin_epoch(0)
    batch = batches()[0]
    batch = replace(batch, x=batch.x.double())
    perturbation = method.perturb(network().double(), batch)
    assert perturbation.delta.dtype == torch.float64
    assert method.loss(network().double(), batch, perturbation).total.dtype == torch.float64


def test_the_state_of_another_method_is_refused() -> None:
    saved = bench(MEP()).state()["method"]
    with pytest.raises(BadInput, match="written by the method MEP, not BP"):
        bench(BP()).method.load_state_dict(saved)
    with pytest.raises(BadInput, match="written by the method MEP, not TRADES"):
        bench(AWP(TRADES())).method.load_state_dict({"method": "AWP", "epoch": 0, "inner": saved})


def _name(case: Case) -> str:
    return next(name for name, known in CASES.items() if known is case)


@every_method
def test_a_method_that_was_not_set_up_says_so(case: Case) -> None:
    method, batch, target = case.make(), batches()[0], bench(TRADES()).learner
    if isinstance(method, Standard):
        return  # that needs nothing of a run
    with pytest.raises(BadInput, match=r"^\w+ has no \w+ yet: call its setup\(Task\(\.\.\.\)\) first\.$"):
        perturbation = method.perturb(network(), method.adapt(target, batch))
        method.commit(batch, perturbation, method.loss(network(), batch, perturbation))


def test_a_task_needs_a_threat() -> None:
    with pytest.raises(BadInput, match=r"The threat is 0\.1: give the norm and the radius"):
        replace(task(), threat=0.1)
