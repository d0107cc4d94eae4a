"""Where and how fast a run computes: device, precision, compilation, memory format. Methods never mention any of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from sparring.errors import BadInput
from sparring.models import may_be_channels_last


@dataclass(frozen=True)
class Runtime:
    """How a run computes.

    Args:
        accelerator: auto (a GPU where there is one), cpu or cuda.
        precision: 32, or bf16-mixed (weights and optimizer stay in 32 bits).
        compile: off, or model (torch.compile; pays after a minute or so of warming up).
        compact: let images whose attack is finished leave its batch, where each has its own number of steps (LAS): less
            work, but the host waits for the device. None: on the CPU, where nobody waits, unless the network is compiled.
        channels_last: keep images as NHWC in memory, which most devices' convolutions prefer.
        checkpoint_every: epochs between checkpoints; the last epoch always has one.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal[32, "bf16-mixed"] = 32
    compile: Literal["off", "model", False] = "off"  # YAML reads a bare off as false
    compact: bool | None = None
    channels_last: bool = True
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        if self.checkpoint_every < 1:
            raise BadInput(f"runtime.checkpoint_every must be at least 1 epoch, not {self.checkpoint_every}.")
        if self.accelerator == "cuda" and not torch.cuda.is_available():
            raise BadInput("runtime.accelerator is cuda, but PyTorch sees no GPU here: use auto or cpu.")

    def fabric(self) -> Fabric:
        """One device in the chosen precision."""
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every precision
        accelerator = self.accelerator
        if accelerator == "auto":
            accelerator = "cuda" if torch.cuda.is_available() else "cpu"
        return Fabric(
            accelerator=accelerator, devices=1, precision="32-true" if self.precision == 32 else self.precision
        )

    def compacts(self, device: torch.device) -> bool:
        """Whether finished images leave an attack's batch on this device."""
        if self.compact is None:
            return device.type == "cpu" and self.compile != "model"
        return self.compact

    def arrange(self, network: nn.Module) -> nn.Module:
        """The network in the chosen memory format."""
        fits = self.channels_last and may_be_channels_last(network, self.fabric().device)
        return network.to(memory_format=torch.channels_last if fits else torch.contiguous_format)
