"""ResNet-18 for small images (He et al., CVPR 2016): a 3x3 stem that keeps the resolution, and no max-pooling."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which projects where the shape changes.

    With `extra_relu` the convolutions' result is cut off below zero before the shortcut is added, too.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, extra_relu: bool = False) -> None:
        super().__init__()
        self.extra_relu = extra_relu
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride), rounded up."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra_relu:
            residual = F.relu(residual)
        return F.relu(residual + self.shortcut(x))


class ResNet18(nn.Module):
    """The CIFAR ResNet-18: stages of `width` x 1, 2, 4, 8 channels, global average pooling, one linear layer.

    Any image size works. Parameters are named as in the field's checkpoints, so that those load. With `extra_relu` in
    its blocks it is the network of GAT and NuAT as released.
    """

    def __init__(self, classes: int, channels: int, width: int, *, extra_relu: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, 1, extra_relu)
        self.layer2 = _stage(width, 2 * width, 2, extra_relu)
        self.layer3 = _stage(2 * width, 4 * width, 2, extra_relu)
        self.layer4 = _stage(4 * width, 8 * width, 2, extra_relu)
        self.linear = nn.Linear(8 * width, classes)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))  # (B, width, H, W)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 8 width, H/8, W/8)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, stride: int, extra_relu: bool) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, extra_relu=extra_relu),
        BasicBlock(outputs, outputs, 1, extra_relu=extra_relu),
    )
