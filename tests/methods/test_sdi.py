"""FGSM-SDI against a transcription of its card, whole steps in float64, and what its generator is and learns."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.losses import cross_entropy, smoothing_from_kept
from sparring.methods import SDI
from sparring.methods.generator import StartGenerator
from sparring.threat import Threat
from tests.methods import harness
from tests.methods.harness import train_on
from tests.methods.reference import (
    CLASSES,
    EPS,
    Plain,
    assert_same,
    batches,
    learner,
    pixel_gradient,
    set_up,
    smoothed_cross_entropy,
)

pytestmark = pytest.mark.usefixtures("double_precision")


# The card's table ------------------------------------------------------------------------------------------------------


def test_the_generator_has_as_many_parameters_as_the_card_says() -> None:
    assert sum(weight.numel() for weight in StartGenerator(6, 3).parameters()) == 79_173


def card_generator(weights: dict[str, Tensor], shown: Tensor) -> Tensor:
    """The card's table, stage by stage, in training mode, on the library's weights by their order."""
    w = list(weights.values())
    conv_in, bn_weight, bn_bias, slope_1, conv_1, bias_1, slope_2, conv_2, bias_2, conv_out, bias_out = w

    def standard(x: Tensor, eps: float) -> Tensor:
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (variance + eps).sqrt()

    def bend(x: Tensor, slope: Tensor) -> Tensor:
        return torch.where(x > 0, x, slope * x)

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.conv2d(x, weight, bias, padding=1)

    h = standard(conv(shown, conv_in), 1e-3) * bn_weight[:, None, None] + bn_bias[:, None, None]
    h = h.clamp_min(0)
    r = conv(bend(standard(h, 1e-5), slope_1), conv_1, bias_1)
    r = conv(bend(standard(r, 1e-5), slope_2), conv_2, bias_2)
    return conv(standard(h + r, 1e-5), conv_out, bias_out).tanh()


def test_the_generator_is_the_card_s_table() -> None:
    torch.manual_seed(0)
    generator = StartGenerator(6, 3)
    shown = torch.randn(4, 6, 5, 7)
    torch.testing.assert_close(generator(shown), card_generator(dict(generator.named_parameters()), shown))


def test_the_residual_convolutions_start_with_the_card_s_gain() -> None:
    """Xavier-uniform with gain sqrt(2): U(-a, a) with a = sqrt(2) sqrt(6 / (fan in + fan out))."""
    torch.manual_seed(0)
    bound = 2**0.5 * (6 / (64 * 9 + 64 * 9)) ** 0.5
    weights = [m.weight for m in StartGenerator(6, 3).residual if isinstance(m, nn.Conv2d)]
    for weight in weights:
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


# Fidelity --------------------------------------------------------------------------------------------------------------


class PlainSDI:
    """Card 2.2, with the switches of the method: one generator step where it is due, then one target step."""

    def __init__(self, generator: StartGenerator, inputs: str, kept: float, boxed: bool, mode: str) -> None:
        self.target = Plain()
        self.generator = deepcopy(generator)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=1e-3, weight_decay=5e-4)
        self.inputs, self.kept, self.boxed, self.mode = inputs, kept, boxed, mode

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        with self.target.mode(self.mode):
            return pixel_gradient(self.target.network, x, lambda z: smoothed_cross_entropy(z, y).sum())

    def delta(self, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
        parts = {"image": [x], "gradient": [s], "both": [x, s]}[self.inputs]
        eta = EPS * self.generator(torch.cat(parts, 1))
        step = 0.07 * self.gradient(x + eta.detach(), y).sign()
        delta = torch.clamp(eta + step, -EPS, EPS)
        return (x + delta).clamp(0, 1) - x if self.boxed else delta

    def step(self, x: Tensor, y: Tensor, updates: int) -> None:
        s = self.gradient(x, y).sign()
        self.generator.train()
        for _ in range(updates):
            delta = self.delta(x, y, s)
            with self.target.mode(self.mode):
                loss = -smoothed_cross_entropy(self.target.network(x + delta), y, self.kept).mean()
                self.optimizer.zero_grad()
                loss.backward(inputs=list(self.generator.parameters()))
            self.optimizer.step()
        self.generator.eval()
        delta = self.delta(x, y, s).detach()
        loss = smoothed_cross_entropy(self.target.network(x + delta), y, self.kept).mean()
        self.target.descend(self.target.gradients(loss))


SWITCHES = [
    {},
    {"smoothing": smoothing_from_kept(0.5, CLASSES), "box": False},
    {"inputs": "image", "iterations": 2},
    {"inputs": "gradient", "bn": "eval"},
    {"bn": "train_frozen_stats", "smoothing": smoothing_from_kept(0.9, CLASSES)},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=["paper", "official", "image, m = 2", "gradient, eval", "frozen"])
def test_a_step_is_the_card_s(switches: dict) -> None:
    """Three steps at k = 2: with, without and with an update of the generator."""
    method = set_up(SDI(alpha=0.07, interval=2, **switches))
    subject = learner()
    smoothing = switches.get("smoothing", 0.0)
    plain = PlainSDI(
        method.generator,
        switches.get("inputs", "both"),
        1 - smoothing * (CLASSES - 1) / CLASSES,
        switches.get("box", True),
        switches.get("bn", "train"),
    )
    for step, batch in enumerate(batches()[:3]):
        train_on(method, subject, batch)
        plain.step(batch.x, batch.y, switches.get("iterations", 1) if step % 2 == 0 else 0)
    assert_same(subject, plain.target)
    for own, expected in zip(
        method.generator.state_dict().values(), plain.generator.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-9)


def test_the_generator_moves_only_when_its_interval_is_over() -> None:
    method = set_up(SDI(interval=3))
    subject = learner()
    moved = []
    for batch in batches() + batches(1):
        before = [weight.clone() for weight in method.generator.parameters()]
        train_on(method, subject, batch)
        moved.append(any((a != b).any() for a, b in zip(before, method.generator.parameters(), strict=True)))
    assert moved == [True, False, False, True, False, False, True, False]


def test_the_generator_s_gradient_vanishes_where_its_start_agrees_with_the_step() -> None:
    """Card 2.2: at alpha = eps the clip cuts the path of every pixel whose start has the step's sign."""
    eta = torch.tensor([[[[0.05, -0.05]]]], requires_grad=True)
    threat = Threat("Linf", EPS)
    threat.project(eta + EPS * torch.tensor([[[[1.0, 1.0]]]])).sum().backward()
    assert eta.grad.flatten().tolist() == [0.0, 1.0]


def test_what_is_known_of_other_weights_is_not_used_again() -> None:
    """The sign that `adapt` computed serves the `perturb` that follows it, and no other."""
    method = set_up(SDI(interval=1))
    subject = learner()
    batch = batches()[0]
    method.adapt(subject, batch)
    first = method.perturb(subject.attack_model, batch)
    with torch.no_grad():
        for weight in subject.network.parameters():
            weight.neg_()
    again = method.perturb(subject.attack_model, batch)
    expected = set_up(SDI(interval=1))
    expected.generator.load_state_dict(method.generator.state_dict())
    assert (first.delta != again.delta).any()
    torch.testing.assert_close(again.delta, expected.perturb(subject.attack_model, batch).delta)


# Learning --------------------------------------------------------------------------------------------------------------


def test_the_generator_learns_starts_that_hurt_more_than_noise() -> None:
    """On digits, a target that stays as it is: the loss of held-back images rises above that from uniform starts."""
    torch.set_default_dtype(torch.float32)
    images = harness.digits(320)
    target = harness.bench(SDI(interval=1, bn="train_frozen_stats"))
    shown = [harness.batch_of(images, slice(i, i + 64)) for i in range(0, 256, 64)]
    unseen = harness.batch_of(images, slice(256, 320))
    pretrained = harness.bench(SDI(), width=8)
    for _ in range(4):
        for batch in shown:
            train_on(pretrained.method, pretrained.learner, batch)
    subject, model = target.method, pretrained.learner

    def loss(start: Tensor) -> float:
        delta = subject._step(model.attack_model, unseen, start)
        with torch.no_grad():
            return cross_entropy(model.attack_model(unseen.x + delta), unseen.y).mean().item()

    def learnt() -> float:
        with torch.no_grad():
            return loss(subject._start(unseen, subject._sign(model.attack_model, unseen)))

    noise = sum(loss(harness.LINF.draw(unseen.x)) for _ in range(5)) / 5
    before = learnt()
    for _ in range(8):
        for batch in shown:
            subject.adapt(model, batch)
    after = learnt()
    assert after > before
    assert after > noise


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ({"interval": 0}, "interval above 0, not 0"),
        ({"iterations": 0}, "iterations above 0, not 0"),
        ({"alpha": "-8/255"}, "alpha must be positive, not -8/255"),
        ({"lr": 0.0}, "lr above 0, not 0.0"),
        ({"weight_decay": -1.0}, "weight_decay >= 0, not -1.0"),
    ],
)
def test_values_that_cannot_be_are_refused(switches: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        SDI(**switches)
