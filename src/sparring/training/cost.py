"""What a training step costs in forward passes, counted rather than timed: the same figure on every machine."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sparring.attacks import attackable
from sparring.data import Batch
from sparring.learner import Learner
from sparring.methods.base import Method
from sparring.training.step import train_step


def step_cost(method: Method, learner: Learner, batch: Batch, epoch: int = 0) -> float:
    """Return the floating-point operations of a training step, all its replays, in units of one forward of the batch.

    A backward to the images costs 1 unit and one to the weights 2, less the share of the first layer, whose input then
    needs no gradient. Everything that the step runs is counted, other networks of the method's included.

    The step is a real one: weights, optimizer and the method's memory move, so the method must have been set up and
    have begun an epoch. The network must not be compiled, as operations inside a compiled graph are not seen.
    """
    model = learner.attack_model
    with torch.no_grad(), attackable(model, "eval"), Operations() as forward:
        model(batch.x)
    with Operations() as step:
        for _ in range(method.traits().replays):
            train_step(method, learner, batch, method.phase(epoch, learner.steps))
    return step.total / forward.total


def forward_operations(network: nn.Module, shape: tuple[int, int, int]) -> float:
    """Return the floating-point operations of a forward pass on one image of this shape (C, H, W)."""
    weight = next(network.parameters())
    x = torch.zeros((1, *shape), device=weight.device, dtype=weight.dtype)
    with torch.no_grad(), attackable(network, "eval"), Operations() as forward:
        network(x)
    return forward.total


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that are called while it is entered, each of which an eager GPU launches one by one.

    Views and empty tensors, for which nothing is launched, do not count.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_name: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All of them."""
        return self.by_name.total()

    @property
    def around_the_network(self) -> int:
        """Those that are no convolution, BatchNorm or ReLU, nor a backward pass of one."""
        return sum(count for name, count in self.by_name.items() if not any(layer in name for layer in _LAYERS))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _WITHOUT_WORK:
            self.by_name[name] += 1
        return func(*args, **(kwargs or {}))


_LAYERS = ("convolution", "batch_norm", "relu", "threshold")
_WITHOUT_WORK = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "_record_function_enter_new",  # an optimizer's mark for profilers
    "_record_function_exit",
}


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums the operations of convolutions and matrix products by PyTorch's own formulas.

    PyTorch's `FlopCounterMode` tracks modules too, by hooks that refuse `autograd.grad` with respect to a leaf,
    which is how every attack here takes its gradient.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.total += int(formula(*args, **kwargs, out_val=result))
        return result
