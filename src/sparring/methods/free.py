"""Free-AT: every backward pass serves the weights and the perturbation at once, and every batch is replayed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.methods.base import Loss, Method, Perturbation, Phase, Task, Traits, state
from sparring.threat import Budget, Threat, box


@dataclass(frozen=True)
class FreeLoss(Loss):
    """A loss whose backward pass reaches the pixels too."""

    point: Tensor = field(kw_only=True)  # (B, C, H, W), x + delta, which collects the gradient


@dataclass
class Free(Method):
    """Adversarial training for free (Shafahi et al., NeurIPS 2019).

    Every batch is shown m times. One backward pass of CE(f(x + delta), y) moves the weights and then the perturbation,
    delta <- clip(delta + eps sign(gradient)). The perturbation stays for the next replay, and for the next batch, where, by
    position, it meets another image. An epoch is one pass over the data and m times as many optimizer steps as elsewhere.

    Args:
        m: replays of each batch, at least 1.
        box: whether every perturbation keeps x + delta in [0, 1] (all), or the first of a batch does not (final: as Wong
            et al.'s code, where it is still clamped to the images of the batch before).

    Raises:
        BadInput: m below 1.
    """

    m: int = 8
    box: Literal["all", "final"] = "all"
    buffer: Tensor = state()  # (batch size, C, H, W), what the last step ended with
    _threat: Threat = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.m < 1:
            raise BadInput(f"Free-AT needs m >= 1 replays of each batch, not {self.m}.")

    @override
    def traits(self) -> Traits:
        return Traits(replays=self.m, one_pass=True)

    @override
    def setup(self, task: Task) -> None:
        self._threat = task.threat
        self.buffer = torch.zeros((task.batch_size, *task.shape), device=task.device)

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> Perturbation:
        """Return what the last step left behind; a budget does not apply, as nothing is attacked here."""
        kept = self.buffer[: len(batch.y)].to(batch.x.dtype, copy=True)
        return Perturbation(box(batch.x, kept) if self.box == "all" else kept)

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> FreeLoss:
        """Compute CE(f(x + delta), y), whose backward pass reaches the pixels too."""
        point = (batch.x + perturbation.delta).requires_grad_()
        logits = model(point)
        return FreeLoss(cross_entropy(logits, batch.y).mean(), logits, point=point)

    def commit(self, batch: Batch, perturbation: Perturbation, loss: Loss) -> None:
        """Take one step of size eps along the gradient of the pass that just moved the weights."""
        assert isinstance(loss, FreeLoss)
        assert loss.point.grad is not None
        step = self._threat.eps * self._threat.steepest(loss.point.grad)
        self.buffer[: len(batch.y)] = self._threat.confine(batch.x, perturbation.delta + step)
