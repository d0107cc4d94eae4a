"""Standard and adversarial training against a transcription of their cards, a whole step at a time, in float64.

The transcription (`Plain`) shares nothing with the library but the network's forward pass. It serves the other methods'
tests as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Literal

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.data import Batch
from sparring.learner import Learner, Optimisation
from sparring.methods import AdversarialTraining, Method, Standard
from sparring.threat import Budget, Threat
from tests.methods import harness
from tests.methods.harness import train_on

LR, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
CLASSES = 10
LINF, L2 = harness.LINF, harness.L2
EPS = float(LINF.eps)


pytestmark = pytest.mark.usefixtures("double_precision")


# The library's side ----------------------------------------------------------------------------------------------------


def network(seed: int = 0) -> nn.Module:
    return harness.network(seed).double()


def learner() -> Learner:
    options = Optimisation(epochs=4, batch_size=harness.BATCH, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    return Learner(network(), options, fabric, total=10**9)


def batches(epoch: int = 0) -> list[Batch]:
    return [replace(batch, x=batch.x.double()) for batch in harness.batches(epoch)]


def set_up(method: Method, threat: Threat = LINF) -> Method:
    method.setup(harness.task(threat))
    method.begin_epoch(0)
    return method


# The transcription -----------------------------------------------------------------------------------------------------


def smoothed_cross_entropy(logits: Tensor, y: Tensor, kept: float = 1.0) -> Tensor:
    """- sum_c q_c log softmax(z)_c with the mass `kept` on the true class and the rest spread evenly, (B,)."""
    target = torch.full_like(logits, (1 - kept) / (CLASSES - 1))
    target[torch.arange(len(y)), y] = kept
    return -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1)


class Plain:
    """The same network, trained by textbook SGD."""

    def __init__(self) -> None:
        self.network = network()
        self.velocity = [torch.zeros_like(weight) for weight in self.network.parameters()]

    @contextmanager
    def mode(self, bn: Literal["eval", "train", "train_frozen_stats"]) -> Iterator[None]:
        """The network during an attack."""
        statistics = [buffer.clone() for buffer in self.network.buffers()]
        self.network.train(bn != "eval")
        yield
        self.network.train()
        if bn == "train_frozen_stats":
            for buffer, before in zip(self.network.buffers(), statistics, strict=True):
                buffer.copy_(before)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, list(self.network.parameters())))

    def descend(self, gradients: list[Tensor]) -> None:
        """v <- 0.9 v + (g + 5e-4 w);  w <- w - lr v."""
        with torch.no_grad():
            for w, g, v in zip(self.network.parameters(), gradients, self.velocity, strict=True):
                v.copy_(MOMENTUM * v + g + DECAY * w)
                w.copy_(w - LR * v)


def pixel_gradient(model: nn.Module, x: Tensor, value) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(value(model(x)), x)[0]


def ball_and_box(x_adv: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
    """Pi of the cards: into the Linf ball, then into the box."""
    return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)


def linf_pgd(model: nn.Module, x: Tensor, start: Tensor, value, eps, alpha, steps: int) -> Tensor:
    x_adv = x + start
    for _ in range(steps):
        x_adv = ball_and_box(x_adv + alpha * pixel_gradient(model, x_adv, value).sign(), x, eps)
    return x_adv


def assert_same(subject: Learner, plain: Plain) -> None:
    """Weights, running statistics and the number of batches they have seen."""
    expected = plain.network.state_dict()
    for name, value in subject.network.state_dict().items():
        torch.testing.assert_close(
            value, expected[name], rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name} {text}"
        )
    assert any((value - network().state_dict()[name]).abs().max() > 1e-3 for name, value in expected.items())


# Fidelity --------------------------------------------------------------------------------------------------------------


def _uniform(x: Tensor, eps: float) -> Tensor:
    return ((x + eps * (2 * torch.rand(x.shape) - 1)).clamp(0, 1)) - x


AT_CASES = {
    "FGSM-AT": (PGD(steps=1, alpha=EPS, start="zero", bn="train"), 1.0),
    "FGSM-RS": (PGD(steps=1, alpha=0.125, bn="train"), 1.0),
    "PGD-3": (PGD(steps=3, alpha=0.04, bn="train"), 1.0),
    "PGD-3, eval, smoothed": (PGD(steps=3, alpha=0.04, bn="eval"), 0.7),
    "PGD-2, frozen statistics": (PGD(steps=2, alpha=0.05, bn="train_frozen_stats"), 0.9),
}


@pytest.mark.parametrize(("attack", "kept"), AT_CASES.values(), ids=AT_CASES.keys())
def test_adversarial_training_steps_as_its_card_says(attack: PGD, kept: float) -> None:
    """x' = Pi(x' + alpha sign grad CE) from the start; then SGD on the smoothed CE(f(x'), y) alone."""
    method = set_up(AdversarialTraining(attack, smoothing=(1 - kept) * CLASSES / (CLASSES - 1)))
    subject, plain = learner(), Plain()
    for step, batch in enumerate(batches()[:3]):
        x, y = batch.x, batch.y
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        start = torch.zeros_like(x) if attack.start == "zero" else _uniform(x, EPS)
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
        logits = plain.network(x_adv)
        expected = smoothed_cross_entropy(logits, y, kept).mean()
        plain.descend(plain.gradients(expected))

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
