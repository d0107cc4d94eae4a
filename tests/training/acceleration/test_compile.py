"""Compiled networks compute what uncompiled ones do, and no gradient that nobody asked for."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from sparring.attacks import PGD, attackable
from sparring.learner import Learner
from sparring.losses import cross_entropy
from sparring.methods import AWP, MEP, SDI, TRADES, AdversarialTraining, Free, Method, Standard
from sparring.optimisation import Optimisation
from sparring.threat import Threat
from sparring.training.acceleration.compile import Compiled, Compiler, inductor
from sparring.training.cost import Operations
from sparring.training.runtime import Runtime
from tests.methods.harness import BATCH, L2, LINF, STEPS_PER_EPOCH, batches, data, network, task, train_on

# Of the compiler's own code.
pytestmark = pytest.mark.filterwarnings("ignore:Skipping serialization:UserWarning")

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

    def learner(self, method: Method) -> Learner:
        method.setup(task())
        fabric = Runtime(accelerator="cpu").fabric()
        options = Optimisation(epochs=4, batch_size=BATCH, lr=0.01)
        self.network.train()
        return Learner(self.network, options, fabric, total=16, compiler=lambda _: self.compiled)


def steps(method: Method, learner: Learner, first: int, last: int) -> list[Tensor]:
    """The losses."""
    losses = []
    for number in range(first, last):
        epoch, position = divmod(number, STEPS_PER_EPOCH)
        method.begin_epoch(epoch)
        torch.manual_seed(number)
        losses.append(train_on(method, learner, list(data().epoch(epoch))[position], epoch).loss.total.detach())
    return losses


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
    method, lowering = make(), shared().lowering
    learner = shared().learner(method)
    steps(method, learner, 1, 2)
    lowering.operations, lowering.backward = 0, []
    steps(method, learner, 2, 3)
    assert lowering.operations / shared().forward == pytest.approx(units, rel=0.01)
    assert lowering.backward.count((CONVOLUTIONS, 0)) == attacks
    for inputs, weights in lowering.backward:
        assert weights in (0, CONVOLUTIONS)
        assert inputs in (CONVOLUTIONS - 1, CONVOLUTIONS)


def test_every_network_of_a_process_is_compiled() -> None:
    """Also those that come after as many others as PyTorch keeps the graphs of."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(cache_size_limit=1, accumulated_cache_size_limit=1):
        for _ in range(4):
            lowering, plain = Interpreted(), network()
            model = Compiler(lowering)(plain)
            for mode in (True, False):
                model.train(mode)(batches()[0].x).sum().backward()
            assert len(lowering.backward) == 2


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


def trained(
    method: Method, plain: nn.Module, compiler: Compiler | None, threat: Threat = LINF
) -> tuple[Tensor, Tensor]:
    """Losses of twenty steps in PyTorch's default precision, and the weights after them."""
    method.setup(task(threat))
    options = Optimisation(epochs=5, batch_size=BATCH, lr=0.02)
    learner = Learner(plain, options, Runtime(accelerator="cpu").fabric(), total=200, compiler=compiler)
    losses = steps(method, learner, 0, 20)
    return torch.stack(losses), torch.cat([w.detach().flatten() for w in learner.network.parameters()])


@pytest.mark.parametrize(
    "make",
    [MEP, lambda: AWP(MEP()), lambda: _pgd("train"), lambda: TRADES(attack=PGD(steps=2, start="normal")), Free],
    ids=["MEP", "AWP(MEP)", "PGD-3", "TRADES-2", "Free"],
)
def test_a_compiled_run_is_an_uncompiled_one(make, double_precision: None) -> None:
    """In double precision, where rounding turns no sign: losses and weights to 1e-9."""
    eager, compiled = (trained(make(), network().double(), compiler) for compiler in (None, Compiler(Interpreted())))
    for found, expected in zip(compiled, eager, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_network_that_draws_is_compiled() -> None:
    """Once its draws are made it is linear: z = grad . x tells that the backward pass has the forward's draws."""

    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.head = nn.Dropout(0.4), nn.Linear(16, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.drop(x.flatten(1) * torch.rand_like(x.flatten(1))))

    def answer(seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        point = x.clone().requires_grad_()
        logits = model(point)
        return logits.detach(), torch.autograd.grad(logits.sum(), point)[0]

    torch.manual_seed(0)
    x, model = torch.rand(5, 1, 4, 4), Compiler()(Drawing())
    (first, slope), (again, _), (other, _) = answer(1), answer(1), answer(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close((slope * x).sum(), first.sum())
    assert (slope == 0).float().mean() == pytest.approx(0.4, abs=0.2)


def test_pytorch_s_own_compiler_computes_the_same(double_precision: None) -> None:
    """The whole of it, on MEP, whose one forward has two backward passes; a minute of compiling, mostly."""
    (eager, _), (compiled, _) = (trained(MEP(), network().double(), compiler) for compiler in (None, Compiler()))
    torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-9)
    assert eager[-1] < eager[0]


def test_what_pytorch_deprecates_of_its_own_ends_no_run_whose_warnings_are_errors(monkeypatch) -> None:
    """As PyTorch 2.11 does when its compiler is imported."""
    real = builtins.__import__

    def warning(name: str, *more: Any) -> Any:
        if name.startswith("torch._inductor"):
            warnings.warn("`torch.jit.script_method` is deprecated.", DeprecationWarning, stacklevel=2)
        return real(name, *more)

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx_inner", lambda graph, inputs, **_: graph)
    monkeypatch.setattr(builtins, "__import__", warning)
    graph = fx.GraphModule({}, fx.Graph())
    assert inductor(graph, [], False, True) is graph


def smooth() -> nn.Module:
    """A network whose gradient is continuous, too: a ReLU near 0 that rounding turns moves later losses by a thousandth."""
    torch.manual_seed(0)
    first, second = (nn.Conv2d(inputs, 8, 3, stride, 1, bias=False) for inputs, stride in ((1, 1), (8, 2)))
    layers = [first, nn.BatchNorm2d(8), nn.SiLU(), second, nn.BatchNorm2d(8), nn.SiLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 4 * 4, 10)).train()


@dataclass
class Watched:
    """PyTorch's own compiler of graphs, and how many backward passes of its making ran."""

    backward: int = 0

    def __call__(self, graph: fx.GraphModule, inputs: Sequence[Any], backward: bool, inference: bool) -> Compiled:
        compiled = inductor(graph, inputs, backward, inference)

        def run(arguments: list[Any]) -> Sequence[Any]:
            self.backward += backward
            return compiled(arguments)

        run._boxed_call = True
        return run


@pytest.mark.parametrize(
    ("make", "backward"),
    [
        (Standard, 1),
        (lambda: AdversarialTraining(PGD(steps=3, bn="train")), 4),
        (lambda: TRADES(attack=PGD(steps=3, start="uniform")), 5),
        (MEP, 3),
    ],
    ids=["Standard", "PGD-3", "TRADES-3", "MEP"],
)
def test_single_precision_is_enough_where_a_step_is_continuous(make, backward: int) -> None:
    """In L2 a step is the gradient over its norm, and rounding turns no sign: losses to 1e-5; 1e-6 is found.

    TRADES from a uniform start: from its own, a thousandth from the image, its gradient is a difference of nearly equal
    predictions, which leaves few digits, and losses part by 1e-5 to 3e-5. A learning rate 0.1% higher moves them by 2e-4.
    """
    lowering = Watched()
    (eager, _), (compiled, _) = (trained(make(), smooth(), compiler, L2) for compiler in (None, Compiler(lowering)))
    assert lowering.backward == 20 * backward  # past its limits PyTorch goes on uncompiled, and says so in a log only
    torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-5)
