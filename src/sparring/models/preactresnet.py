"""PreActResNet-18 for small images (He et al., ECCV 2016), and what released code makes of it under the same name."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PreActBlock(nn.Module):
    """BatchNorm and ReLU before each convolution; the shortcut is the raw input, or a projection of the active one.

    With `projects_raw` it is a projection of the raw one. The weights have the same names and shapes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, projects_raw: bool = False) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.projects, self.projects_raw = stride != 1 or inputs != outputs, projects_raw
        if self.projects:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride), rounded up."""
        active = F.relu(self.bn1(x))
        shortcut: Tensor = self.shortcut(x if self.projects_raw else active) if self.projects else x
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return shortcut + residual


class PreActTrunk(nn.Module, ABC):
    """The stem and four stages of `width` x 1, 2, 4, 8 channels; subclasses turn the last map into logits.

    Parameters are named as in the field's checkpoints, so that those load.
    """

    linear: nn.Linear  # made by the subclass: its input is the subclass's features

    def __init__(self, channels: int, width: int, *, projects_raw: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.layer1 = _stage(width, width, 1, projects_raw)
        self.layer2 = _stage(width, 2 * width, 2, projects_raw)
        self.layer3 = _stage(2 * width, 4 * width, 2, projects_raw)
        self.layer4 = _stage(4 * width, 8 * width, 2, projects_raw)

    @abstractmethod
    def features(self, last: Tensor) -> Tensor:
        """Return (B, F) features of the last map (B, 8 width, H/8, W/8)."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        last = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        logits: Tensor = self.linear(self.features(last))
        return logits


class PreActResNet18(PreActTrunk):
    """The standard network: a final BatchNorm and ReLU, then global average pooling, so that any image size works.

    With `projects_raw` it is that of Wong et al. (ICLR 2020, FGSM-RS and their Free-AT) and of N-FGSM as released: the
    shortcuts' convolutions see the raw input of their blocks.
    """

    def __init__(self, classes: int, channels: int, width: int, *, projects_raw: bool = False) -> None:
        super().__init__(channels, width, projects_raw=projects_raw)
        self.bn = nn.BatchNorm2d(8 * width)
        self.linear = nn.Linear(8 * width, classes)

    def features(self, last: Tensor) -> Tensor:
        """Return the mean of the active map, (B, 8 width)."""
        return F.relu(self.bn(last)).mean((2, 3))


class GradAlignPreActResNet18(PreActTrunk):
    """The network of GradAlign as released: shortcuts project the raw input; no final BatchNorm or ReLU."""

    def __init__(self, classes: int, channels: int, width: int) -> None:
        super().__init__(channels, width, projects_raw=True)
        self.linear = nn.Linear(8 * width, classes)

    def features(self, last: Tensor) -> Tensor:
        """Return the mean of the last map, (B, 8 width)."""
        return last.mean((2, 3))


class TalkPreActResNet18(PreActTrunk):
    """The Tiny ImageNet network of FGSM-PGI, FGSM-SDI and LAS-AT as released: no final BatchNorm or ReLU.

    The last map is averaged over 4x4 windows and flattened: 2x2x512 = 2048 features at 64x64 pixels, four times
    the standard head. The head therefore fixes the image `size` (H, W), each side at least 32. At 32x32 there is one
    window, and it is the network of FGSM-CKPT as released.
    """

    def __init__(self, classes: int, channels: int, size: tuple[int, int], width: int) -> None:
        super().__init__(channels, width)
        rows, columns = (-(-side // 8) // 4 for side in size)  # three strides of two round up, the windows down
        self.linear = nn.Linear(8 * width * rows * columns, classes)

    def features(self, last: Tensor) -> Tensor:
        """Return the means of the 4x4 windows, (B, 8 width x rows x columns)."""
        return F.avg_pool2d(last, 4).flatten(1)


def _stage(inputs: int, outputs: int, stride: int, projects_raw: bool) -> nn.Sequential:
    return nn.Sequential(
        PreActBlock(inputs, outputs, stride, projects_raw=projects_raw),
        PreActBlock(outputs, outputs, 1, projects_raw=projects_raw),
    )
