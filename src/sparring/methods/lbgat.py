"""LBGAT: a clean network is trained beside the robust one, and its logits are what the robust one learns."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from typing_extensions import override

from sparring import ranks
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.learner import Learner
from sparring.losses import cross_entropy, kl_divergence
from sparring.methods.base import Loss, Perturbation, Phase, Task, state
from sparring.methods.trades import Diverging
from sparring.models import create
from sparring.randomness import initialised


@dataclass
class LBGAT(Diverging):
    """Learnable boundary guided adversarial training (Cui et al., ICCV 2021).

    MSE(f(x + delta), t(x)) + CE(t(x), y) + beta KL(f(x) || f(x + delta)), t the teacher. Both networks descend it together,
    from scratch: the teacher is not detached, and the robust network has no label to learn but the teacher's logits. MSE is
    a mean over images and classes. The attack is TRADES's, whatever beta.

    Args:
        beta: weight of the divergence, at least 0 ("alpha" in the paper).
        attack: see `Diverging`.
        teacher: the clean network, by a name of `sparring.models`; it normalises nothing.
        teacher_width: channels of its first stage; None is the paper's.

    Raises:
        BadInput: a negative beta, and what `Diverging` refuses; in `setup`, a teacher that does not fit the images, or
            an optimizer other than SGD.
    """

    beta: float = 0.0
    teacher: str = "resnet18"
    teacher_width: int | None = None
    network: nn.Module = state()  # the teacher; always in training mode, as it is of no use afterwards
    optimizer: torch.optim.Optimizer = state()  # the teacher's

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0:
            raise BadInput(f"LBGAT needs beta >= 0, not {self.beta}.")

    @override
    def setup(self, task: Task) -> None:
        super().setup(task)
        if task.optimizer != "sgd":
            raise BadInput(
                f"LBGAT moves both networks by one SGD, not by {task.optimizer}: set optimisation.optimizer: sgd."
            )
        channels, *size = task.shape
        with initialised(task.seed):
            teacher = create(self.teacher, task.classes, channels=channels, size=size, width=self.teacher_width)
        self.network = teacher.to(task.device).train()
        weights = list(self.network.parameters())
        groups = [{"params": [w for w in weights if w.ndim > 1]}, {"params": [w for w in weights if w.ndim <= 1]}]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=True)

    def adapt(self, target: Learner, batch: Batch, phase: Phase = None) -> Batch:
        """Take over the target's rate, momentum and decay: one optimizer moves both."""
        options = target.optimisation
        scheduled = target.momentum
        for group, decays in zip(self.optimizer.param_groups, (True, options.decay_norms), strict=True):
            group["lr"], group["nesterov"] = target.rate, options.nesterov
            group["momentum"] = options.momentum if scheduled is None else scheduled
            group["weight_decay"] = options.weight_decay if decays else 0.0
        return batch

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Return the joint loss above."""
        # BatchNorm sees the clean images last, as in the released code; without a divergence they move it and nothing else.
        adversarial = model(batch.x + perturbation.delta)
        with nullcontext() if self.beta else torch.no_grad():
            clean = model(batch.x)
        weight = next(self.network.parameters())
        taught = self.network(batch.x.to(weight.dtype)).to(adversarial.dtype)
        boundary = (adversarial - taught).square().mean()
        natural = cross_entropy(taught, batch.y).mean()
        divergence = kl_divergence(clean, adversarial).mean()
        terms = {"boundary": boundary.detach(), "natural": natural.detach(), "divergence": divergence.detach()}
        return Loss(boundary + natural + self.beta * divergence, adversarial, terms)

    def commit(self, batch: Batch, perturbation: Perturbation, loss: Loss) -> None:
        """Take the teacher's step."""
        ranks.average_([p.grad for p in self.network.parameters() if p.grad is not None])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
