"""How weights are moved: the optimizer, its rate and decay, clipping and averaging, as a configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from sparring.averaging import Average
from sparring.choices import check_choices
from sparring.errors import BadInput
from sparring.schedule import MultiStep, Schedule


@dataclass(frozen=True)
class Optimisation:
    """How the weights are moved.

    Args:
        epochs: passes over the training data.
        batch_size: images per optimizer step and rank.
        optimizer: sgd or adamw.
        lr: learning rate, multiplied by the schedule.
        momentum: of SGD.
        nesterov: Nesterov's form of it.
        weight_decay: L2 for SGD, decoupled for AdamW.
        decay_norms: whether biases and the parameters of norms decay, too, as in the released code of LAS-AT, FGSM-SDI and
            FGSM-PGI.
        clip: largest gradient norm; None does not clip.
        average: an average of the weights, which is then what is evaluated and kept, such as EMA(0.995); None keeps none.
        drop_last: leave out the last, smaller batch of an epoch.
    """

    epochs: int = 110
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay_norms: bool = True
    clip: float | None = None
    average: Average | None = None
    schedule: Schedule = field(default_factory=MultiStep)
    drop_last: bool = False

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("epochs", "batch_size", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadInput(f"optimisation.{name} must be positive, not {getattr(self, name)}.")
        if not 0 <= self.momentum < 1:
            raise BadInput(f"optimisation.momentum must lie in [0, 1), not {self.momentum}.")
        if not 0 <= self.weight_decay < math.inf:
            raise BadInput(f"optimisation.weight_decay must be at least 0, not {self.weight_decay}.")
        if self.clip is not None and self.clip <= 0:
            raise BadInput(f"optimisation.clip must be positive, not {self.clip}: leave it out to not clip.")
        if self.nesterov and self.momentum <= 0:
            raise BadInput(f"optimisation.nesterov needs a positive momentum, not {self.momentum}.")


def make_optimizer(network: nn.Module, options: Optimisation) -> torch.optim.Optimizer:
    """Return the optimizer of a network's trainable parameters, fused."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    spared = [] if options.decay_norms else [parameter for parameter in trainable if parameter.ndim <= 1]
    decayed = trainable if options.decay_norms else [parameter for parameter in trainable if parameter.ndim > 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, fused=True)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov, fused=True)
