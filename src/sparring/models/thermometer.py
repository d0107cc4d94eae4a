"""Pixels written as thermometers (Buckman et al., ICLR 2018), as a part of the network that attacks can see through."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from sparring.models.quantise import check_levels


class Thermometer(nn.Module):
    """A code of `levels` numbers for each number of an image: 1 where it is above k / levels, k = 0 .. levels - 1, else 0.

    The code's own gradient is zero, so an attack that follows it stands still. The gradient used is that of the smooth code
    clip(x - k / levels, 0, 1), as Athalye et al. (ICML 2018, section 5.1.1) break the defence. The attribute
    `hides_gradients` leaves the code's own in its place, to show what that looks like.

    Args:
        levels: 2 to 256.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        check_levels(levels)
        self.levels = levels
        self.hides_gradients = False

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B coded H W"]:
        """Return the codes (B, C levels, H, W) of images (B, C, H, W) in [0, 1], those of a channel behind one another."""
        steps = torch.arange(self.levels, device=x.device, dtype=x.dtype) / self.levels
        above = x.unsqueeze(2) - steps.view(-1, 1, 1)  # (B, C, levels, H, W)
        smooth = above.clamp(0, 1) * (0 if self.hides_gradients else 1)
        return ((above.detach() > 0).to(x.dtype) + (smooth - smooth.detach())).flatten(1, 2)

    @override
    def extra_repr(self) -> str:
        return f"levels={self.levels}" + (", hides_gradients" if self.hides_gradients else "")
