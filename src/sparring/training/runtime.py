"""Where and how fast a run computes: device, precision, level, memory format. Methods never mention any of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparring.choices import check_choices
from sparring.errors import BadInput
from sparring.methods import Method
from sparring.models import Fold, may_be_channels_last
from sparring.training.acceleration.plan import LevelName, Plan, plan

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Runtime:
    """How a run computes.

    Args:
        accelerator: auto (a GPU where there is one), cpu or cuda.
        precision: 32, or bf16-mixed (weights and optimizer stay in 32 bits).
        level: eager; compile (torch.compile of the network); graph (the whole step as a CUDA graph, GPUs only);
            compile+graph; or auto, the fastest that pays for its warm-up in this run, which is said when it begins.
        compact: let images whose attack is finished leave its batch, where each has its own number of steps or a rule ends
            it (LAS, FAT, SAT, DART): less work, but the host waits for the device. None: on the CPU, which does not
            wait, unless the network is compiled.
        channels_last: keep images as NHWC in memory, which most devices' convolutions prefer.
        checkpoint_every: epochs between checkpoints, of which the best is kept; the last epoch always has one. The network
            after the best of all epochs is saved in any case.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal[32, "bf16-mixed"] = 32
    level: LevelName = "auto"
    compact: bool | None = None
    channels_last: bool = True
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        check_choices(self)
        if self.checkpoint_every < 1:
            raise BadInput(f"runtime.checkpoint_every must be at least 1 epoch, not {self.checkpoint_every}.")
        if self.accelerator == "cuda" and not torch.cuda.is_available():
            raise BadInput("runtime.accelerator is cuda, but PyTorch sees no GPU here: use auto or cpu.")
        if self.compact and self.level not in ("auto", "eager"):
            raise BadInput(
                f"runtime.compact makes the host wait and changes the batch's size, which the level {self.level} does not "
                "allow: leave one of the two out."
            )

    def fabric(self) -> Fabric:
        """Return one device in the chosen precision."""
        from lightning_fabric import Fabric  # here, as it takes seconds

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every precision
        accelerator = self.accelerator
        if accelerator == "auto":
            accelerator = "cuda" if torch.cuda.is_available() else "cpu"
        return Fabric(
            accelerator=accelerator, devices=1, precision="32-true" if self.precision == 32 else self.precision
        )

    def plan(
        self,
        device: torch.device,
        method: Method,
        network: nn.Module,
        forward: Callable[[], float],
        folds: Sequence[Fold] = (),
    ) -> Plan:
        """Return the level that the run has, and why; raises BadInput for one that this device cannot have."""
        if "graph" in self.level and device.type != "cuda":
            raise BadInput(
                f"runtime.level {self.level} needs a GPU, and the device is {device.type}: use auto or eager."
            )
        leaving = self.compact is None and self.level == "auto" and method.traits().shrinks
        if self.compact or (leaving and device.type == "cpu"):
            return Plan(reason="images whose attack has ended leave the batch, which saves more than compiling would")
        return plan(self.level, device, self.precision, method, network, forward, folds)

    def compacts(self, device: torch.device, chosen: Plan) -> bool:
        """Say whether finished images leave an attack's batch on this device."""
        if self.compact is None:
            return device.type == "cpu" and not chosen.compiled
        return self.compact

    def arrange(self, network: nn.Module) -> nn.Module:
        """Return the network in the chosen memory format, its BatchNorms without the counters that nothing reads.

        With a fixed momentum the count of batches has no effect, and counting costs an operation a layer and forward.
        """
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.momentum is not None:
                module.num_batches_tracked = None
        fits = self.channels_last and may_be_channels_last(network, self.fabric().device)
        return network.to(memory_format=torch.channels_last if fits else torch.contiguous_format)
