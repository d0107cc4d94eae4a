"""A transcription of textbook adversarial training in float64, which whole steps of the library's methods are held to.

The transcription (`Plain`) shares nothing with the library but the network's forward pass. Tests that use this module run
in double precision (the fixture `double_precision`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sparring.data import Batch
from sparring.learner import Learner
from sparring.methods import Method
from sparring.optimisation import Optimisation
from sparring.threat import Threat
from tests.methods import harness
from tests.methods.harness import LINF

LR, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
CLASSES = 10
EPS = float(LINF.eps)


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


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """sum_c p_c (log p_c - log q_c), (B,)."""
    p, q = clean.softmax(1), adversarial.softmax(1)
    return (p * (p / q).log()).sum(1)


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


def uniform(x: Tensor, eps: float) -> Tensor:
    """A perturbation drawn from the ball, in the box."""
    return (x + eps * (2 * torch.rand(x.shape) - 1)).clamp(0, 1) - x


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


# Networks that know the digits -----------------------------------------------------------------------------------------


def experienced() -> tuple:
    """A learner and the transcription's network, both of which know the digits somewhat, so that images differ."""
    subject, plain = learner(), Plain()
    for one in (subject.network, plain.network):
        one.load_state_dict(knowledge(8))
    return subject, plain


@cache
def knowledge(epochs: int) -> dict[str, Tensor]:
    """A network after so many epochs of clean training."""
    plain = Plain()
    for epoch in range(epochs):
        for batch in batches(epoch):
            plain.descend(plain.gradients(smoothed_cross_entropy(plain.network(batch.x), batch.y).mean()))
    return plain.network.state_dict()
