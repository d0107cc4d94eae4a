"""One stored tensor per training sample: how a method remembers across epochs.

Knows nothing about what is stored. Rows are addressed by the sample's stable index, so that shuffling does not matter.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class SampleMemory:
    """`samples` rows of `shape`, float32 on `device`, all zero at first."""

    def __init__(self, samples: int, shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self.rows = torch.zeros((samples, *shape), device=device)

    def read(self, index: Int[Tensor, " B"]) -> Float[Tensor, "B *shape"]:
        """A copy of the samples' rows."""
        return self.rows.index_select(0, index)

    def write(self, index: Int[Tensor, " B"], values: Float[Tensor, "B *shape"]) -> None:
        """Replace the samples' rows; an index must not occur twice."""
        self.rows.index_copy_(0, index, values.to(self.rows.dtype))

    def state_dict(self) -> dict[str, Tensor]:
        """The rows, for a checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy the rows of a checkpoint into this memory; raises ValueError if their shapes differ."""
        if state["rows"].shape != self.rows.shape:
            raise ValueError(f"memory of {tuple(self.rows.shape)} cannot take {tuple(state['rows'].shape)}")
        self.rows.copy_(state["rows"])
