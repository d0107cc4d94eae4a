"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016), without dropout, as adversarial training uses them."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sparring.errors import BadInput


class WideBlock(nn.Module):
    """BatchNorm and ReLU before each of two convolutions; the shortcut projects only where the channels change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride), rounded up."""
        active = F.relu(self.bn1(x))
        shortcut: Tensor = self.convShortcut(active) if self.projects else x
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return shortcut + residual


class WideResNet(nn.Module):
    """WRN-`depth`-`widen`: three stages of 16, 32, 64 times `widen` channels, global average pooling, one linear layer.

    The depth is 6n + 4 for n blocks a stage, or 6n + 2 as Madry et al. (ICLR 2018) and FAT count, whose WRN-32-10 is
    WRN-34-10. Any image size works. Parameters are named as in TRADES and RobustBench, so that those checkpoints load
    (see `adopt`); their unused `sub_block1` does not exist here.

    Raises:
        BadInput: the depth is neither 6n + 4 nor 6n + 2, or the widening factor is not positive.
    """

    def __init__(self, depth: int, widen: int, classes: int, channels: int) -> None:
        super().__init__()
        # 6n + 4 counts the stem and the three projections, 6n + 2 the stem and the head.
        blocks, rest = divmod(depth - (2 if depth % 6 == 2 else 4), 6)
        if rest or blocks < 1:
            below = max(10, depth - rest)
            raise BadInput(f"A WideResNet has depth 6n + 4, and {depth} is not: take {below} or {below + 6}.")
        if widen < 1:
            raise BadInput(f"A WideResNet's widening factor must be at least 1, got {widen}.")
        widths = (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.block1 = _stage(blocks, widths[0], widths[1], stride=1)
        self.block2 = _stage(blocks, widths[1], widths[2], stride=2)
        self.block3 = _stage(blocks, widths[2], widths[3], stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)
        self._initialise()

    def _initialise(self) -> None:
        """Draw He-normal convolutions by fan-out (He et al., ICCV 2015); set the head's bias to zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))  # (B, 64 widen, H/4, W/4)
        logits: Tensor = self.fc(F.relu(self.bn1(x)).mean((2, 3)))
        return logits


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = WideBlock(inputs, outputs, stride)
    rest = (WideBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *rest)))  # `block1.layer.0` in the field's checkpoints
