"""FGSM-SDI: a one-step attack whose start is drawn by a network that learns to make the attack succeed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring import ranks
from sparring.attacks import BatchNormMode, attackable, input_gradient
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.learner import Learner
from sparring.losses import cross_entropy
from sparring.methods.base import Loss, Method, Perturbation, Phase, Task, state
from sparring.methods.generator import StartGenerator
from sparring.randomness import initialised
from sparring.threat import Budget, Ratio, Threat, check_step, step_size


@dataclass(frozen=True, eq=False)
class SignedBatch(Batch):
    """A batch with the sign of its clean images' gradient at the present weights."""

    sign: Tensor  # (B, C, H, W)


@dataclass
class SDI(Method):
    """One step from a learnt, sample-dependent start (Jia et al., IEEE TIP 2022).

    s = sign(grad_x CE(f(x), y));  eta = eps g(x, s);  delta = clip(eta + alpha sign(grad_x CE(f(x + eta), y))).
    The generator g ascends CE(f(x + delta), y) every `interval` steps, the target descends it at every step. The gradient
    reaches g through eta inside the clip alone, and so, with alpha = eps, only where eta disagrees with the step's sign.

    Args:
        alpha: step size; None is eps.
        inputs: what the generator is shown: both, the image alone or the gradient's sign alone (Table II).
        interval: target steps between two updates of the generator, k.
        iterations: of the generator in each update, m.
        lr: rate of the generator's Adam.
        weight_decay: of the generator, in L2 form.
        smoothing: PyTorch's label smoothing, in the generator's and in the target's loss; the attack's gradients use none.
        box: whether delta keeps the image in [0, 1]; the released code does not.
        bn: BatchNorm of the target in the attack and while the generator learns. As in the released code, train moves the
            running statistics with every forward: clean image, start, perturbed image.

    Raises:
        BadInput: an interval, a number of iterations, a rate or a step size that is not positive; a negative decay.
    """

    alpha: Ratio | None = None
    inputs: Literal["both", "image", "gradient"] = "both"
    interval: int = 20
    iterations: int = 1
    lr: float = 1e-3
    weight_decay: float = 5e-4
    smoothing: float = 0.0
    box: bool = True
    bn: BatchNormMode = "train"
    generator: StartGenerator = state()
    optimizer: torch.optim.Optimizer = state()
    _threat: Threat = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.alpha = step_size(self.alpha)
        for name in ("interval", "iterations", "lr"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInput(f"SDI needs {name} above 0, not {value}.")
        if self.weight_decay < 0:
            raise BadInput(f"SDI needs weight_decay >= 0, not {self.weight_decay}.")

    @override
    def setup(self, task: Task) -> None:
        check_step(self.alpha, task.threat)
        self._threat = task.threat
        channels = task.shape[0]
        with initialised(task.seed):
            generator = StartGenerator(2 * channels if self.inputs == "both" else channels, channels)
        self.generator = generator.to(task.device).eval()
        # Fused, as the plain Adam reads its step counter on the host; capturable, for the step to be captured on a GPU.
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(),
            lr=self.lr,
            weight_decay=self.weight_decay,
            fused=True,
            capturable=task.device.type == "cuda",
        )

    @override
    def phase(self, epoch: int, step: int) -> bool:
        """Return whether the generator moves in this step."""
        return step % self.interval == 0

    @override
    def adapt(self, target: Learner, batch: Batch, phase: bool = True) -> Batch:
        """Move, every `interval` steps, the generator so that its starts lead to a higher loss of
        the present target.

        In training mode here, in evaluation mode when it serves the target, as in the released code.
        """
        if not phase:
            return batch
        sign = self._sign(target.attack_model, batch)
        self.generator.train()
        for _ in range(self.iterations):
            self._ascend(target.attack_model, batch, sign)
        self.generator.eval()
        return SignedBatch(batch.x, batch.y, batch.index, batch.view, sign)  # the weights stay until the attack

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        """Take one step from the generator's start; a budget does not apply."""
        sign = batch.sign if isinstance(batch, SignedBatch) else self._sign(model, batch)
        with torch.no_grad():
            start = self._start(batch, sign)
            return Perturbation(self._step(model, batch, start), start)

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Return CE(f(x + delta), y), label-smoothed."""
        logits = model(batch.x + perturbation.delta)
        return Loss(cross_entropy(logits, batch.y, self.smoothing).mean(), logits)

    def _ascend(self, model: nn.Module, batch: Batch, sign: Tensor) -> None:
        with attackable(model, self.bn):
            delta = self._step(model, batch, self._start(batch, sign))
            gain = cross_entropy(model(batch.x + delta), batch.y, self.smoothing).mean()
            weights = list(self.generator.parameters())
            gradients = torch.autograd.grad(-gain, weights)
        ranks.average_(gradients)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        self.optimizer.step()

    def _sign(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sign of the clean image's gradient, (B, C, H, W)."""
        with attackable(model, self.bn):
            gradient, _ = input_gradient(model, batch.x, lambda logits: cross_entropy(logits, batch.y))
        return gradient.sign()

    def _start(self, batch: Batch, sign: Tensor) -> Tensor:
        """Return eta, (B, C, H, W), with the generator's graph."""
        shown = {"image": batch.x, "gradient": sign, "both": torch.cat([batch.x, sign], 1)}[self.inputs]
        weight = next(self.generator.parameters())
        start = self.generator(shown.to(weight.dtype)).to(batch.x.dtype)
        return self._threat.project(self._threat.eps * start)

    def _step(self, model: nn.Module, batch: Batch, start: Tensor) -> Tensor:
        """Return delta, (B, C, H, W): a graph leads back to the start, none through the gradient."""
        with attackable(model, self.bn):
            gradient, _ = input_gradient(model, batch.x + start, lambda logits: cross_entropy(logits, batch.y))
        alpha = self._threat.eps if self.alpha is None else self.alpha
        moved = start + alpha * self._threat.steepest(gradient)
        return self._threat.confine(batch.x, moved) if self.box else self._threat.project(moved)
