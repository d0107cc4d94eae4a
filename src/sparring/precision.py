"""A network under the precision of a run; and single precision that is no less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparring.models import Fold, folded

if TYPE_CHECKING:
    from lightning_fabric import Fabric  # imported where it is made: it takes seconds


class InPrecision(nn.Module):
    """The bare network under the run's precision; its logits come back in the dtype of the images."""

    def __init__(self, network: nn.Module, fabric: Fabric, folds: Sequence[Fold] = ()) -> None:
        super().__init__()
        self.network = network
        self._fabric, self._folds = fabric, folds

    def forward(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W) -> logits (B, K)."""
        with self._fabric.autocast():
            logits: Tensor = self.network(x)
        return logits.to(x.dtype)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Fold BatchNorm, in the run's precision, while attacks in evaluation mode need only the network's answers."""
        device = next(self.network.parameters()).device.type
        with self._fabric.autocast():
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with folded(self.network, self._folds, dtype):
            yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Let single precision be single precision inside: TF32, which GPUs may use in its place, is off."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=torch.backends.cudnn.benchmark,
            deterministic=torch.backends.cudnn.deterministic,
            allow_tf32=False,
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
