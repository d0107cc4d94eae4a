"""FGSM-PGI: one-step adversarial training that starts from a perturbation it remembers (Jia et al., ECCV 2022).

The three differ in what they remember: BP the last batch's perturbations, EP each sample's own of the last epoch, MEP the
same moved along a momentum of gradients. All regularise the logits between the start and the final perturbation.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring import ranks
from sparring.attacks import BatchNormMode, Objective, attackable, input_gradient
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.memory import Kind, SampleMemory
from sparring.methods.base import Loss, Method, Perturbation, Phase, Review, Task, state
from sparring.methods.prior_memory import new_memory, new_perturbations, read, write
from sparring.randomness import rademacher, seed_from
from sparring.threat import Budget, Ratio, Threat, box, check_step, per_sample, step_size


@dataclass(frozen=True)
class GuidedPerturbation(Perturbation):
    """One step away from a remembered start."""

    start: Tensor  # (B, C, H, W), the prior
    gradient: Tensor = field(kw_only=True)  # (B, C, H, W), of the loss at x + start
    alpha: float | Tensor = field(kw_only=True)  # the step's size
    eps: float | Tensor = field(kw_only=True)  # the radius


@dataclass
class _PriorGuided(Method):
    """What BP, EP and MEP share: delta = clip(start + alpha sign(gradient at x + start)), and a logit regulariser.

    Loss: CE(f(x + delta), y) + weight * ||f(x + delta) - f(x + start)||^2. With `regulariser: mean` the square is averaged
    over the classes, as the released code does: its weight of 10 equals 10 / classes with `sum`.

    Args:
        alpha: step size; None is eps.
        weight: the regulariser's lambda, at least 0.
        regulariser: sum over classes (the paper's squared norm) or mean over classes (the released code).
        detach_start: no gradient through f(x + start): cheaper, and another method.
        smoothing: PyTorch's label smoothing, in the attack and in the loss.
        initial: what an empty memory holds: uniform in the ball, Rademacher noise of size eps (the released code), or zero.
        reset: empty the memory every so many epochs; None is never.
        box: which perturbations are clamped so that the image stays in [0, 1]: all, final (not the start, as the
            released code), or none.
        bn: BatchNorm in the attack's forward. The loss repeats that forward in training mode and moves the running
            statistics there, so the default leaves them alone in the attack: start, then delta, once each.

    Raises:
        BadInput: a negative weight, a step size that is not positive, or a reset period below one epoch.
    """

    alpha: Ratio | None = None
    weight: float = 1.0
    regulariser: Literal["sum", "mean"] = "sum"
    detach_start: bool = False
    smoothing: float = 0.0
    initial: Literal["uniform", "rademacher", "zero"] = "uniform"
    reset: int | None = None
    box: Literal["all", "final", "none"] = "all"
    bn: BatchNormMode = "train_frozen_stats"
    last_reset: int = state()
    _threat: Threat = field(init=False, repr=False, compare=False)
    _seed: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.alpha = step_size(self.alpha)
        if self.weight < 0:
            raise BadInput(f"The regulariser's weight must be at least 0, not {self.weight}.")
        if self.reset is not None and self.reset < 1:
            raise BadInput(f"reset must be at least 1 epoch, not {self.reset}: leave it out to never reset.")

    @override
    def setup(self, task: Task) -> None:
        check_step(self.alpha, task.threat)
        self._threat, self._seed, self.last_reset = task.threat, task.seed, -1

    def begin_epoch(self, epoch: int, review: Review | None = None) -> None:
        """Fill an empty memory, and a used one when the reset period is over; once an epoch, also after a resume."""
        due = epoch == 0 or (self.reset is not None and epoch % self.reset == 0)
        if due and self.last_reset != epoch:
            self._forget(epoch)
            self.last_reset = epoch

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> GuidedPerturbation:
        """Take one step of size alpha from the remembered start; a budget's steps do not apply to a one-step method."""
        start = self._start(batch)
        with attackable(model, self.bn):
            gradient, _ = input_gradient(model, batch.x + start, self._objective(batch))
        return self._guided(batch, start, gradient, budget)

    @override
    def perturb_and_loss(
        self, attacked: nn.Module, model: nn.Module, batch: Batch, phase: Phase = None
    ) -> tuple[GuidedPerturbation, Loss]:
        """Make the forward pass at the start once for both: 7 units a step in place of 8."""
        in_training = all(module.training for module in attacked.modules())
        if self.weight == 0 or self.bn != "train_frozen_stats" or not in_training:  # the loss's forward is another one
            perturbation = self.perturb(attacked, batch, phase)
            return perturbation, self.loss(model, batch, perturbation, phase)
        start = self._start(batch)
        point = (batch.x + start).requires_grad_()
        prior = attacked(point)
        objective = self._objective(batch)(prior).sum()
        (gradient,) = torch.autograd.grad(objective, point, retain_graph=not self.detach_start)
        perturbation = self._guided(batch, start, gradient)
        prior = prior.detach() if self.detach_start else prior
        return perturbation, self._regularised(model, batch, perturbation, prior)

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Compute the regularised loss above; the start's forward is made here, so that it holds at any weights."""
        assert isinstance(perturbation, GuidedPerturbation)
        if self.weight == 0:
            logits = model(batch.x + perturbation.delta)
            return Loss(cross_entropy(logits, batch.y, self.smoothing).mean(), logits)
        with torch.no_grad() if self.detach_start else nullcontext():
            prior = model(batch.x + perturbation.start)
        return self._regularised(model, batch, perturbation, prior)

    def _regularised(self, model: nn.Module, batch: Batch, perturbation: GuidedPerturbation, prior: Tensor) -> Loss:
        """Compute the loss from the logits (B, K) at the start."""
        logits = model(batch.x + perturbation.delta)
        natural = cross_entropy(logits, batch.y, self.smoothing).mean()
        square = (logits - prior).square()
        gap = (square.sum(1) if self.regulariser == "sum" else square.mean(1)).mean()
        terms = {"adversarial": natural.detach(), "gap": gap.detach()}
        return Loss(natural + self.weight * gap, logits, terms)

    def _start(self, batch: Batch) -> Tensor:
        start = self._recall(batch)
        return box(batch.x, start) if self.box == "all" else start

    def _objective(self, batch: Batch) -> Objective:
        return partial(cross_entropy, y=batch.y, smoothing=self.smoothing)

    def _guided(
        self, batch: Batch, start: Tensor, gradient: Tensor, budget: Budget | None = None
    ) -> GuidedPerturbation:
        eps: float | Tensor = budget.eps if budget else self._threat.eps
        alpha: float | Tensor = budget.alpha if budget else (self._threat.eps if self.alpha is None else self.alpha)
        delta = self._step(batch, start, gradient, alpha, eps)
        return GuidedPerturbation(delta, start, gradient=gradient, alpha=alpha, eps=eps)

    def _step(
        self, batch: Batch, start: Tensor, direction: Tensor, alpha: float | Tensor, eps: float | Tensor
    ) -> Tensor:
        """Return clip(start + alpha sign(direction)), inside the pixel box unless `box` is none."""
        moved = start + per_sample(alpha, start) * self._threat.steepest(direction)
        return self._threat.project(moved, eps) if self.box == "none" else self._threat.confine(batch.x, moved, eps)

    def _noise(self, device: torch.device, epoch: int) -> Callable[[Tensor], Tensor]:
        """Return a function that draws what an empty memory holds, like its argument; a matter of seed and epoch only."""
        generator = torch.Generator(device).manual_seed(seed_from(self._seed, epoch))
        if self.initial == "zero":
            return torch.zeros_like
        if self.initial == "rademacher":
            return lambda like: self._threat.project(self._threat.eps * rademacher(like, generator))
        return lambda like: self._threat.draw(like, generator=generator)

    @abstractmethod
    def _recall(self, batch: Batch) -> Tensor:
        """Return the start for each image of the batch, (B, C, H, W)."""

    @abstractmethod
    def _forget(self, epoch: int) -> None:
        """Fill the memory with fresh noise."""


@dataclass
class BP(_PriorGuided):
    """FGSM-BP: the start is what the previous batch ended with, image by position (other images)."""

    buffer: Tensor = state()

    @override
    def setup(self, task: Task) -> None:
        super().setup(task)
        self.buffer = torch.zeros((task.batch_size, *task.shape), device=task.device)

    def commit(self, batch: Batch, perturbation: Perturbation, loss: Loss) -> None:
        """Replace the first rows only where a last batch is smaller."""
        self.buffer[: len(batch.y)] = perturbation.delta

    def _recall(self, batch: Batch) -> Tensor:
        return self.buffer[: len(batch.y)].clone()

    def _forget(self, epoch: int) -> None:
        self.buffer.copy_(self._noise(self.buffer.device, epoch)(self.buffer))


@dataclass
class EP(_PriorGuided):
    """FGSM-EP: the start is the sample's own perturbation of the previous epoch.

    Args:
        aligned: remember in the image's coordinates, whatever crop and flip an epoch shows; False remembers in the crop's
            coordinates, as the released code, which misaligns the prior under augmentation.
        memory: fp32, fp16 (half the space) or int8 (a quarter), which holds whole pixel levels (255ths): exact, as images
            are 8-bit and eps and alpha must be whole levels, but for the noise of `initial: uniform`, rounded once.

    Raises:
        BadInput: in `setup`, images without a stable index; with int8 an L2 threat, or an eps or alpha that is not a
            whole number of 255ths up to 127; and what all three refuse.
    """

    aligned: bool = True
    memory: Kind = "fp32"
    perturbations: SampleMemory = state()

    @override
    def setup(self, task: Task) -> None:
        super().setup(task)
        self.perturbations = new_perturbations(self, task)

    @override
    def commit(self, batch: Batch, perturbation: Perturbation, loss: Loss) -> None:
        write(self.perturbations, batch, self.aligned, perturbation.delta)

    def _recall(self, batch: Batch) -> Tensor:
        return read(self.perturbations, batch, self.aligned)

    def _forget(self, epoch: int) -> None:
        self.perturbations.fill(self._noise(self.perturbations.rows.device, epoch))


@dataclass
class MEP(_PriorGuided):
    """FGSM-MEP: the start is the sample's own perturbation of the previous epoch, moved along a momentum of gradients.

    m <- decay m + g / ||g||_1; next start = clip(start + alpha sign(m)). The first epoch's momentum is its gradient. That is
    the released code's; the talk prints sign(g) for g / ||g||_1. With signs and a decay below 1/2, such as the released 0.3,
    the past never outweighs the present, sign(m) = sign(g), and this is FGSM-EP to the bit.

    Args:
        decay: mu, the momentum's weight, in [0, 1].
        momentum: what it accumulates: gradient over the L1 norm of the whole batch's gradient (the released code; with
            several ranks, of all their batches) or sign of the gradient (as printed).
        aligned: see `EP`.
        memory: see `EP`; the momenta are fp32 with fp32, else fp16, where `gradient` loses what is under 1e-7 of its mean.

    Raises:
        BadInput: a decay outside [0, 1], and what EP refuses.
    """

    decay: float = 0.3
    momentum: Literal["gradient", "sign"] = "gradient"
    aligned: bool = True
    memory: Kind = "fp32"
    perturbations: SampleMemory = state()
    momenta: SampleMemory = state()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay <= 1:
            raise BadInput(f"The momentum's decay must lie in [0, 1], not {self.decay}.")

    @override
    def setup(self, task: Task) -> None:
        super().setup(task)
        self.perturbations = new_perturbations(self, task)
        kind: Kind = "fp32" if self.memory == "fp32" else "fp16"
        # The released form's magnitudes sum to 1 over a batch, too small for fp16 each: scaled, their mean is 1.
        scaled = kind == "fp16" and self.momentum == "gradient"
        self.momenta = new_memory(self, task, kind, float(task.batch_size * math.prod(task.shape)) if scaled else 1.0)

    @override
    def commit(self, batch: Batch, perturbation: Perturbation, loss: Loss) -> None:
        assert isinstance(perturbation, GuidedPerturbation)
        gradient = perturbation.gradient
        if self.momentum == "sign":
            current = self._threat.steepest(gradient)
        else:
            current = gradient / ranks.total(gradient.abs().sum()).clamp_min(torch.finfo(gradient.dtype).tiny)
        momentum = self.decay * read(self.momenta, batch, self.aligned) + current
        start = self._step(batch, perturbation.start, momentum, perturbation.alpha, perturbation.eps)
        write(self.momenta, batch, self.aligned, momentum)
        write(self.perturbations, batch, self.aligned, start)

    def _recall(self, batch: Batch) -> Tensor:
        return read(self.perturbations, batch, self.aligned)

    def _forget(self, epoch: int) -> None:
        self.perturbations.fill(self._noise(self.perturbations.rows.device, epoch))
        self.momenta.rows.zero_()
