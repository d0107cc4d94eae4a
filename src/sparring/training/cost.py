"""What a training step costs in forward passes, counted rather than timed: the same figure on every machine."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sparring.attacks import attackable
from sparring.data.batch import Batch
from sparring.learner import Learner
from sparring.methods.base import Method
from sparring.training.step import train_step


def step_cost(method: Method, learner: Learner, batch: Batch) -> float:
    """The floating-point operations of one whole training step, in units of one forward of the batch.

    A backward to the images costs 1 unit and one to the weights 2, less the share of the first layer, whose input then
    needs no gradient. Everything that the step runs is counted, other networks of the method's included.

    The step is a real one: weights, optimizer and the method's memory move, so the method must have been set up and
    have begun an epoch. The network must not be compiled, as operations inside a compiled graph are not seen.
    """
    with torch.no_grad(), attackable(learner.bare, "eval"), _Operations() as forward:
        learner.bare(batch.x)
    with _Operations() as step:
        train_step(method, learner, batch)
    return step.total / forward.total


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
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
