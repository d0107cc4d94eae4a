"""A small convolutional network for images of 8 to 64 pixels: demonstrations, tests and CPUs."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SmallConv(nn.Module):
    """Four 3x3 convolutions with BatchNorm, three of stride two, then the mean and a linear layer.

    About 100,000 parameters at the default width of 32; each output pixel of the last map sees 17x17 pixels.
    """

    def __init__(self, classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.stage1 = _stage(channels, width, stride=1)
        self.stage2 = _stage(width, width, stride=2)
        self.stage3 = _stage(width, 2 * width, stride=2)
        self.stage4 = _stage(2 * width, 4 * width, stride=2)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            x = F.relu(stage(x))
        logits: Tensor = self.linear(x.mean((2, 3)))  # of (B, 4 width, H/8, W/8)
        return logits


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
