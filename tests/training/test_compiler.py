"""Compiled networks compute what uncompiled ones do, and no gradient that nobody asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from sparring.attacks import PGD, attackable
from sparring.learner import Learner, Optimisation
from sparring.losses import cross_entropy
from sparring.methods import AWP, MEP, SDI, TRADES, AdversarialTraining, Free, Method, Standard
from sparring.training.compiler import Compiled, Compiler
from sparring.training.cost import Operations
from sparring.training.runtime import Runtime
from tests.methods.harness import BATCH, Bench, batches, network, task

# Of the compiler's own code.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Skipping serialization:UserWarning"),
]

CONVOLUTIONS = 20  # of a ResNet-18


@dataclass
class Interpreted:
    """In the place of the last compiler: runs the graphs as they are, and counts what they do."""

    operations: int = 0
    backward: list[tuple[int, int]] = field(default_factory=list)  # by pass that ran: gradients of inputs, of weights

    def __call__(self, graph: fx.GraphModule, inputs: Sequence[Any], backward: bool, inference: bool) -> Compiled:
        masks = [
            node.args[10] for node in graph.graph.nodes if node.target is torch.ops.aten.convolution_backward.default
        ]

        def run(arguments: list[Any]) -> Sequence[Any]:
            if backward:
                self.backward.append((sum(mask[0] for mask in masks), sum(mask[1] for mask in masks)))
            with Operations() as done:
                result = graph(*arguments)
            self.operations += done.total
            return result

        run._boxed_call = True
        return run


class Shared:
    """One compiled ResNet-18 for all tests of what is computed: tracing it takes seconds a mode."""

    def __init__(self) -> None:
        self.lowering = Interpreted()
        self.network = network(name="resnet18", width=16)
        self.compiled = Compiler(self.lowering)(self.network)
        with torch.no_grad(), attackable(self.network, "eval"), Operations() as forward:
            self.network(batches()[0].x)
        self.forward = forward.total

    def bench(self, method: Method) -> Bench:
        method.setup(task())
        method.begin_epoch(0)
        fabric = Runtime(accelerator="cpu").fabric()
        options = Optimisation(epochs=4, batch_size=BATCH, lr=0.01)
        learner = Learner(self.network, options, fabric, total=16, compiler=lambda _: self.compiled)
        self.network.train()
        return Bench(method, learner)


@cache
def shared() -> Shared:
    return Shared()


def _pgd(bn: str) -> AdversarialTraining:
    return AdversarialTraining(PGD(steps=3, alpha=0.05, bn=bn))


@pytest.mark.parametrize(
    ("make", "units", "attacks"),
    [
        (Standard, 3, 0),
        (lambda: _pgd("train"), 9, 3),
        (lambda: _pgd("eval"), 9, 3),
        (lambda: TRADES(attack=PGD(steps=3, alpha=0.05, start="normal")), 13, 3),
        (lambda: AWP(_pgd("train")), 12, 3),
        (MEP, 7, 1),
        (lambda: MEP(detach_start=True), 5, 1),
        (lambda: AWP(MEP()), 14, 1),
        (lambda: SDI(interval=100), 7, 2),  # the generator is no part of this network
        (lambda: Free(m=2), 6, 0),
    ],
    ids=[
        "Standard",
        "PGD-3",
        "PGD-3, eval",
        "TRADES-3",
        "AWP(PGD-3)",
        "MEP",
        "MEP, detached",
        "AWP(MEP)",
        "SDI",
        "Free",
    ],
)
def test_a_compiled_step_costs_the_minimum(make, units: float, attacks: int) -> None:
    """And attacks compute no gradient of a weight: 0 of the 20 that a whole backward pass computes."""
    bench = shared().bench(make())
    bench.steps(1, 2)
    lowering = shared().lowering
    lowering.operations, lowering.backward = 0, []
    bench.steps(2, 3)
    assert lowering.operations / shared().forward == pytest.approx(units, rel=0.01)
    assert lowering.backward.count((CONVOLUTIONS, 0)) == attacks
    for inputs, weights in lowering.backward:
        assert weights in (0, CONVOLUTIONS)
        assert inputs in (CONVOLUTIONS - 1, CONVOLUTIONS)


def test_weights_and_pixels_may_be_asked_for_together_and_apart() -> None:
    model, plain = shared().compiled, shared().network
    batch, weights = batches()[0], [w for w in plain.parameters() if w.ndim > 1]
    plain.train()

    def value(network: nn.Module, x: Tensor) -> Tensor:
        return cross_entropy(network(x), batch.y).sum()

    x = batch.x.clone().requires_grad_()
    expected = torch.autograd.grad(value(plain, x), [x, *weights])
    for asked in ([x], weights, [x, *weights], [weights[-1]]):
        found = torch.autograd.grad(value(model, x), asked)
        for tensor, gradient in zip(asked, found, strict=True):
            place = next(i for i, other in enumerate([x, *weights]) if other is tensor)
            torch.testing.assert_close(gradient, expected[place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [MEP, lambda: AWP(MEP()), lambda: _pgd("train"), lambda: TRADES(attack=PGD(steps=2, start="normal")), Free],
    ids=["MEP", "AWP(MEP)", "PGD-3", "TRADES-2", "Free"],
)
def test_a_compiled_run_is_an_uncompiled_one(make, double_precision: None) -> None:
    """Twenty steps in double precision, where rounding turns no sign: losses and weights to 1e-9."""
    runs = []
    for compiler in (None, Compiler(Interpreted())):
        method = make()
        method.setup(task())
        options = Optimisation(epochs=5, batch_size=BATCH, lr=0.02)
        fabric = Runtime(accelerator="cpu").fabric()
        bench = Bench(method, Learner(network().double(), options, fabric, total=200, compiler=compiler))
        losses = [loss.total.detach() for loss in bench.steps(0, 20, torch.float64)]
        runs.append(
            (torch.stack(losses), torch.cat([w.detach().flatten() for w in bench.learner.network.parameters()]))
        )
    for found, expected in zip(runs[1], runs[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_pytorch_s_own_compiler_computes_the_same(double_precision: None) -> None:
    """The whole of it, on MEP, whose one forward has two backward passes; a minute of compiling, mostly."""
    runs = []
    for compiler in (None, Compiler()):
        method = MEP()
        method.setup(task())
        options = Optimisation(epochs=5, batch_size=BATCH, lr=0.02)
        fabric = Runtime(accelerator="cpu").fabric()
        bench = Bench(method, Learner(network().double(), options, fabric, total=20, compiler=compiler))
        runs.append(torch.stack([loss.total.detach() for loss in bench.steps(0, 20, torch.float64)]))
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=1e-9)
    assert runs[0][-1] < runs[0][0]
