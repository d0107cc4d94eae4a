"""The network of FGSM-SDI that draws, from an image and its gradient's sign, where a one-step attack begins."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

CHANNELS = 64  # of every hidden layer


class StartGenerator(nn.Module):
    """Convolutions at full resolution around a residual block (Jia et al., TIP 2022): 79,173 parameters for 6 -> 3 channels.

    Args:
        inputs: channels of what it is shown: those of the image, of its gradient's sign, or of both.
        outputs: channels of an image.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            _convolution(inputs, CHANNELS, bias=False), nn.BatchNorm2d(CHANNELS, eps=1e-3), nn.ReLU()
        )
        self.residual = nn.Sequential(*_normalised_convolution(), *_normalised_convolution())
        self.leave = nn.Sequential(
            nn.BatchNorm2d(CHANNELS, affine=False), _convolution(CHANNELS, outputs, bias=True), nn.Tanh()
        )
        for layer in self.residual:
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("relu"))

    def forward(self, shown: Float[Tensor, "B inputs H W"]) -> Float[Tensor, "B outputs H W"]:
        """Return a start in units of the radius, each component within [-1, 1]."""
        hidden = self.enter(shown)
        start: Tensor = self.leave(hidden + self.residual(hidden))
        return start


def _convolution(inputs: int, outputs: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def _normalised_convolution() -> list[Any]:
    """Return a block: normalise, bend (one slope for all channels), convolve."""
    return [nn.BatchNorm2d(CHANNELS, affine=False), nn.PReLU(), _convolution(CHANNELS, CHANNELS, bias=True)]
