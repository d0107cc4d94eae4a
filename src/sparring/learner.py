"""A network in training: its optimizer, learning-rate schedule, gradient clipping and weight average, as one thing.

Knows nothing about attacks or data. One set of weights has several forms: `model` is what the loss goes through (wrapped
for the device and the precision), `attack_model` what attacks differentiate, `raw_model` the same never compiled,
`eval_model` and `export_model` what is evaluated and kept, the weight average where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from sparring import ranks
from sparring.averaging import WeightAverage
from sparring.models import Fold
from sparring.optimisation import Optimisation, make_optimizer
from sparring.precision import InPrecision

if TYPE_CHECKING:
    from lightning_fabric import Fabric  # imported where it is made: it takes seconds

Compile: TypeAlias = Callable[[nn.Module], Any]  # the network as it is to be called, with the same weights


class Learner:
    """A network with what it takes to train it for `total` optimizer steps.

    `compiler` is applied once to the network, and to whatever else has its shape (the look-ahead). `folds` are the
    BatchNorms that attacks in evaluation mode do without (`sparring.models.foldable`), except on what is compiled, where
    they are fused with what follows them.
    """

    def __init__(
        self,
        network: nn.Module,
        optimisation: Optimisation,
        fabric: Fabric,
        total: int,
        *,
        compiler: Compile | None = None,
        folds: Sequence[Fold] = (),
    ) -> None:
        self.network = fabric.to_device(network)
        self.optimisation = optimisation
        self.total = total
        self.steps = 0
        self._loads = 0  # how often a state was loaded, which puts new tensors in the optimizer's place
        self._fabric = fabric
        self._compiler = compiler
        self._foldable, self._folds = tuple(folds), list(folds)  # the list is shared with all forms of the network
        self._unclipped: Tensor | None = None
        self._on_device: _OnDevice | None = None
        fast: Any = compiler(self.network) if compiler else self.network
        self.attack_model = InPrecision(fast, fabric, () if compiler else self._folds)
        # Compiled once, outside the wrapper, so that the attack and the loss share one compiled network.
        self.model, self.optimizer = fabric.setup(
            fast, make_optimizer(self.network, optimisation), _reapply_compile=False
        )
        self._average = WeightAverage(self.network, optimisation.average) if optimisation.average else None

    @property
    def raw_model(self) -> nn.Module:
        """`attack_model`, never compiled: for batch sizes other than a step's, which would each add a graph."""
        return InPrecision(self.network, self._fabric, self._folds)

    @property
    def eval_model(self) -> nn.Module:
        """The network to evaluate, in the run's precision, never compiled: evaluations have batches of many sizes."""
        return InPrecision(self.export_model, self._fabric, self._folds)

    @property
    def export_model(self) -> nn.Module:
        """The network to keep: the weight average where there is one."""
        return self._average.network if self._average else self.network

    @property
    def folds(self) -> Sequence[Fold]:
        """The BatchNorms that attacks in evaluation mode do without; none after `stop_folding`."""
        return self._folds

    def stop_folding(self) -> None:
        """Let attacks go through the whole network from here on, and in runs that are resumed from here."""
        self._folds.clear()

    @property
    def rate(self) -> float | Tensor:
        """The learning rate of the next step; a tensor () once `keep_rate_on_device` was called."""
        return self._on_device.rate if self._on_device else self._scheduled_rate()

    @property
    def phase(self) -> Hashable:
        """All that the next step depends on besides tensors: a momentum that the schedule moves, loads, and folding."""
        return self.momentum, self._loads, bool(self._folds)

    @property
    def momentum(self) -> float | None:
        """SGD's momentum in the next step where the schedule moves it, else None."""
        return self.optimisation.schedule.momentum(self.steps, self.total)

    def keep_rate_on_device(self) -> None:
        """Read the rate and the average's share from the device from here on, where `set_rate` puts them.

        A captured step can then be replayed under another rate. The momentum stays a number of the host's.
        """
        device = next(self.network.parameters()).device
        # The fused optimizers read single precision on a GPU, and on a CPU whatever there is.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self._on_device = _OnDevice(*(torch.zeros((), dtype=dtype, device=device) for _ in range(3)))
        for group in self.optimizer.param_groups:
            if "capturable" in group and device.type == "cuda":  # Adam asks to be told that its step may be captured
                group["capturable"] = True

    def set_rate(self) -> None:
        """Set rate, momentum and the average's share for the next step, on the host.

        `step` does it by itself, unless the rate is kept on the device: then whoever takes steps calls it before each.
        """
        if self._on_device:
            self._on_device.rate.fill_(self._scheduled_rate())
            if self._average:
                share = self._average.share(self.steps + 1, self.total)
                self._on_device.share.fill_(share)
                self._on_device.rest.fill_(1 - share)
        momentum = self.momentum
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
            if momentum is not None and "momentum" in group:
                group["momentum"] = momentum

    def look_ahead(self) -> LookAhead:
        """Return a copy of the network that can go one step ahead of it; made once and brought up
        to date as often as needed.
        """
        return LookAhead(self, self._fabric, self._compiler, self._folds)

    def gradient_norm(self) -> Tensor:
        """Return the L2 norm of the last step's gradients, before clipping; of all parameters at once, on the device."""
        if self._unclipped is not None:
            return self._unclipped
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor, *, around_model: bool = False) -> None:
        """Backpropagate a scalar; `around_model` says that it went through `attack_model` and not through `model`."""
        self._fabric.backward(loss)
        if around_model:  # no wrapper averages over the ranks
            ranks.average_([p.grad for p in self.network.parameters() if p.grad is not None])

    def gradients(self) -> Gradients:
        """Return where the last step left its gradients."""
        return Gradients([parameter.grad for parameter in self.network.parameters()], self._unclipped)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Leave the count of steps as it is: inside, a step is captured, which does not happen yet."""
        steps = self.steps
        try:
            yield
        finally:
            self.steps = steps

    def note_replay(self, gradients: Gradients) -> None:
        """Count a step that was replayed, whose gradients are where they were when it was captured."""
        self.steps += 1
        for parameter, gradient in zip(self.network.parameters(), gradients.by_parameter, strict=True):
            parameter.grad = gradient
        self._unclipped = gradients.unclipped

    def step(self) -> None:
        """Clip, move the weights at the schedule's current rate, and let the average follow."""
        options = self.optimisation
        self._unclipped = None
        if options.clip is not None:
            self._unclipped = self._fabric.clip_gradients(
                self.model, self.optimizer, max_norm=options.clip, error_if_nonfinite=False
            )
        if self._on_device is None:
            self.set_rate()
        self.optimizer.step()
        self.steps += 1
        if self._average:
            self._average.follow(self.network, *self._shares())

    def _shares(self) -> tuple[float | Tensor, float | Tensor]:
        """Return the shares of the new weights in the average, and of the old ones, after this step."""
        assert self._average is not None
        if self._on_device:
            return self._on_device.share, self._on_device.rest
        share = self._average.share(self.steps, self.total)
        return share, 1 - share

    def _scheduled_rate(self) -> float:
        return self.optimisation.lr * self.optimisation.schedule.factor(self.steps, self.total)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimizer, step counter and average: all that the next step depends on."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "average": self._average.network.state_dict() if self._average else None,
            "folds": bool(self._folds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._loads += 1
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        self._folds[:] = self._foldable if state.get("folds", True) else ()  # earlier versions always folded
        if self._average:
            self._average.network.load_state_dict(state["average"])


@dataclass(frozen=True)
class _OnDevice:
    """What the next step reads on the device, () each."""

    rate: Tensor
    share: Tensor  # of the new weights in their average
    rest: Tensor  # 1 - share


@dataclass(frozen=True)
class Gradients:
    """What a step leaves behind besides weights: a gradient a parameter, and their norm if they were clipped."""

    by_parameter: list[Tensor | None]
    unclipped: Tensor | None


class LookAhead:
    """The network after one more step of plain gradient descent: where a perturbation would lead the training.

    Lives beside the learner's network and is brought up to date with `catch_up`, never copied
    anew: a new copy would take memory each time, and be compiled again where networks are compiled.
    """

    def __init__(self, learner: Learner, fabric: Fabric, compiler: Compile | None, folds: Sequence[Fold]) -> None:
        self._learner = learner
        self.network = deepcopy(learner.network)
        fast: Any = compiler(self.network) if compiler else self.network
        self.model = InPrecision(fast, fabric, () if compiler else folds)
        plain = replace(learner.optimisation, optimizer="sgd", momentum=0.0, nesterov=False)
        self._optimizer = make_optimizer(self.network, plain)

    @torch.no_grad()
    def catch_up(self) -> None:
        """Take over the learner's current parameters and buffers."""
        torch._foreach_copy_(_tensors(self.network), _tensors(self._learner.network))

    def backward(self, loss: Tensor) -> None:
        """Backpropagate a scalar."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Step down the gradient, at the learner's current rate and weight decay, without momentum."""
        ranks.average_([p.grad for p in self.network.parameters() if p.grad is not None])
        for group in self._optimizer.param_groups:
            group["lr"] = self._learner.rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
