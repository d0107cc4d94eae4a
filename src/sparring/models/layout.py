"""Whether a network may keep its images as NHWC in memory, which most devices' convolutions prefer."""

from __future__ import annotations

import torch
from torch import nn


def may_be_channels_last(network: nn.Module, device: torch.device | str) -> bool:
    """Return False where the CPU's channels-last backward writes where it must not, True everywhere else.

    torch 2.14 and 2.15 do so in strided 1x1 convolutions of few channels, up to 6 on one processor and up to 8 on another,
    which only networks of toy width have.
    """
    return torch.device(device).type != "cpu" or not any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels <= 8
        for module in network.modules()
    )
