"""Standard and adversarial training against a transcription of their cards, a whole step at a time, in float64."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.methods import AdversarialTraining, Standard
from sparring.threat import Budget
from tests.methods import harness
from tests.methods.harness import L2, train_on
from tests.methods.reference import (
    CLASSES,
    EPS,
    Plain,
    assert_same,
    batches,
    learner,
    linf_pgd,
    network,
    pixel_gradient,
    set_up,
    smoothed_cross_entropy,
    uniform,
)

pytestmark = pytest.mark.usefixtures("double_precision")


# The library's side ----------------------------------------------------------------------------------------------------


# The transcription -----------------------------------------------------------------------------------------------------


# Fidelity --------------------------------------------------------------------------------------------------------------


AT_CASES = {
    "FGSM-AT": (PGD(steps=1, alpha=EPS, start="zero", bn="train"), 1.0),
    "FGSM-RS": (PGD(steps=1, alpha=0.125, bn="train"), 1.0),
    "PGD-3": (PGD(steps=3, alpha=0.04, bn="train"), 1.0),
    "PGD-3, eval, smoothed": (PGD(steps=3, alpha=0.04, bn="eval"), 0.7),
    "PGD-2, frozen statistics": (PGD(steps=2, alpha=0.05, bn="train_frozen_stats"), 0.9),
}


@pytest.mark.parametrize("extra", [False, True], ids=["", "as Rice et al. released it"])
@pytest.mark.parametrize(("attack", "kept"), AT_CASES.values(), ids=AT_CASES.keys())
def test_adversarial_training_steps_as_its_card_says(attack: PGD, kept: float, extra: bool) -> None:
    """x' = Pi(x' + alpha sign grad CE) from the start; then SGD on the smoothed CE(f(x'), y) alone.

    The released step shows the network x' once more after the attack, and x once more after the step.
    """
    smoothing = (1 - kept) * CLASSES / (CLASSES - 1)
    method = set_up(AdversarialTraining(attack, smoothing=smoothing, extra_forwards=extra))
    subject, plain = learner(), Plain()
    for step, batch in enumerate(batches()[:3]):
        x, y = batch.x, batch.y
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        start = torch.zeros_like(x) if attack.start == "zero" else uniform(x, EPS)
        with plain.mode(attack.bn):
            x_adv = linf_pgd(
                plain.network,
                x,
                start,
                lambda z, y=y: smoothed_cross_entropy(z, y).mean(),
                EPS,
                float(attack.alpha),
                attack.steps,
            )
            if extra:
                plain.network(x_adv)
        logits = plain.network(x_adv)
        expected = smoothed_cross_entropy(logits, y, kept).mean()
        plain.descend(plain.gradients(expected))
        if extra:
            plain.network(x)

        torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(loss.logits, logits, rtol=0, atol=1e-10)
    assert_same(subject, plain)


def test_l2_adversarial_training_steps_as_the_mathematics_says() -> None:
    """Uniform start in the ball, steps of length alpha along the gradient, projection by scaling."""
    method = set_up(AdversarialTraining(PGD(steps=3, alpha=0.2, bn="train")), L2)
    subject, plain = learner(), Plain()

    def length(value: Tensor) -> Tensor:
        return value.square().sum((1, 2, 3), keepdim=True).sqrt()

    for step, batch in enumerate(batches()[:2]):
        x, y = batch.x, batch.y
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        gaussian, radius = torch.randn(x.shape), torch.rand(len(x), 1)
        delta = 0.5 * gaussian / length(gaussian) * radius.view(-1, 1, 1, 1) ** (1 / 64)
        delta = (x + delta).clamp(0, 1) - x
        for _ in range(3):
            g = pixel_gradient(plain.network, x + delta, lambda z, y=y: smoothed_cross_entropy(z, y).sum())
            delta = delta + 0.2 * g / length(g)
            delta = delta * torch.where(length(delta) > 0.5, 0.5 / length(delta), torch.ones(1))
            delta = (x + delta).clamp(0, 1) - x
        expected = smoothed_cross_entropy(plain.network(x + delta), y).mean()
        plain.descend(plain.gradients(expected))
        torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
    assert_same(subject, plain)


@pytest.mark.parametrize("kept", [1.0, 0.6])
def test_standard_training_steps_as_its_card_says(kept: float) -> None:
    method = set_up(Standard(smoothing=(1 - kept) * CLASSES / (CLASSES - 1)))
    subject, plain = learner(), Plain()
    for batch in batches()[:3]:
        loss = train_on(method, subject, batch).loss
        expected = smoothed_cross_entropy(plain.network(batch.x), batch.y, kept).mean()
        plain.descend(plain.gradients(expected))
        torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
    assert_same(subject, plain)


# One at a time ---------------------------------------------------------------------------------------------------------


def test_a_budget_replaces_radius_step_size_and_steps() -> None:
    method = set_up(AdversarialTraining(PGD(steps=3, alpha=0.04, start="zero", bn="eval")))
    model, batch = network(), batches()[0]
    eps = torch.linspace(0.02, 0.3, len(batch.y))
    alpha = torch.linspace(0.3, 0.01, len(batch.y))
    steps = torch.arange(len(batch.y)) % 5
    delta = method.perturb(model, batch, budget=Budget(eps, alpha, steps, rounds=4)).delta
    model.eval()
    for i in range(len(batch.y)):
        x, y = batch.x[i : i + 1], batch.y[i : i + 1]
        start = torch.zeros_like(x)
        alone = linf_pgd(model, x, start, lambda z, y=y: smoothed_cross_entropy(z, y).sum(), eps[i], alpha[i], steps[i])
        torch.testing.assert_close(x + delta[i : i + 1], alone, rtol=0, atol=1e-10)


def test_the_margin_can_be_climbed_instead_of_the_cross_entropy() -> None:
    method = set_up(AdversarialTraining(PGD(steps=2, alpha=0.04, start="zero", bn="eval", objective="margin")))
    model, batch = network(), batches()[0]
    delta = method.perturb(model, batch).delta

    def rivals_lead(logits: Tensor) -> Tensor:
        true = nn.functional.one_hot(batch.y, CLASSES).bool()
        return (logits.masked_fill(true, -torch.inf).amax(1) - logits[true]).sum()

    x_adv = linf_pgd(model.eval(), batch.x, torch.zeros_like(batch.x), rivals_lead, EPS, 0.04, 2)
    torch.testing.assert_close(batch.x + delta, x_adv, rtol=0, atol=1e-10)


def test_the_attack_ignores_the_smoothing_of_the_loss() -> None:
    attack = PGD(steps=2, alpha=0.04, start="zero", bn="eval")
    model, batch = network(), batches()[0]
    plain = set_up(AdversarialTraining(attack)).perturb(model, batch)
    smoothed = set_up(AdversarialTraining(attack, smoothing=0.9)).perturb(model, batch)
    assert torch.equal(plain.delta, smoothed.delta)


@pytest.mark.parametrize(("bn", "moved"), [("train", 4), ("eval", 1), ("train_frozen_stats", 1)])
def test_the_running_statistics_see_the_attack_only_in_training_mode(bn, moved: int) -> None:
    method, subject = set_up(AdversarialTraining(PGD(steps=3, alpha=0.04, bn=bn))), learner()
    train_on(method, subject, batches()[0])
    counts = [value for name, value in subject.network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts == [moved] * 4


def test_the_attack_goes_through_the_bare_network_and_the_loss_through_the_wrapped_one() -> None:
    class Spy(Standard):
        def perturb(self, model, batch, phase=None, budget=None):
            seen.append(model)
            return super().perturb(model, batch, phase, budget)

        def loss(self, model, batch, perturbation, phase=None):
            seen.append(model)
            return super().loss(model, batch, perturbation, phase)

    seen: list[nn.Module] = []
    subject = learner()
    train_on(set_up(Spy()), subject, batches()[0])
    assert seen[0] is subject.attack_model
    assert seen[1] is subject.model
    assert subject.attack_model is not subject.model


def test_the_default_is_ten_steps_of_a_quarter_of_the_radius_in_training_mode() -> None:
    assert AdversarialTraining().attack == PGD(steps=10, alpha=None, start="uniform", bn="train")


def test_the_transcription_is_a_copy_and_not_the_network_itself() -> None:
    plain, subject = Plain(), learner()
    before = deepcopy(subject.network.state_dict())
    plain.descend(plain.gradients(plain.network(batches()[0].x).sum()))
    assert harness.identical(before, subject.network.state_dict())
    with pytest.raises(AssertionError):
        assert_same(subject, plain)
