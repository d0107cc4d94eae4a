"""Input rounded to a few equally spaced values, as a part of the network that attacks can see through."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sparring.choices import check_kind
from sparring.errors import BadInput


def quantised(x: Float[Tensor, "B C H W"], levels: int) -> Float[Tensor, "B C H W"]:
    """Return images (B, C, H, W) in [0, 1] at the nearest of `levels` values: round(x (levels - 1)) / (levels - 1).

    The gradient is passed straight through, as that of the identity. The true one is zero almost everywhere: an attack
    that followed it would stand still, and the network would only seem robust (gradient masking; the remedy is BPDA,
    Athalye et al., ICML 2018). The dtype stays.
    """
    nearest = (x.detach() * (levels - 1)).round() / (levels - 1)
    return nearest + (x - x.detach())  # the difference is exactly zero and has the gradient of x


def check_levels(levels: int) -> None:
    """Raise BadInput for a number of values that rounds nothing or everything."""
    check_kind("levels", levels, int)
    if not 2 <= levels <= 256:
        raise BadInput(f"levels must lie between 2 and 256, not {levels}: leave it out to not quantise the input.")
