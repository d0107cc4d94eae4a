"""One stored tensor per training sample: how a method remembers across epochs.

Knows nothing about what is stored. Rows are addressed by the sample's stable index, so that shuffling does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparring import ranks
from sparring.errors import BadInput

Kind = Literal["fp32", "fp16", "int8"]
_PART = 1024  # rows that are filled at a time


class SampleMemory:
    """`samples` rows of `shape` on `device`, all zero at first; the same in every rank.

    A row holds value * scale as its kind of number: fp32 (PyTorch's default precision), fp16, or int8, rounded to whole
    numbers from -127 to 127. What lies beyond the largest number of a kind becomes that number.
    """

    def __init__(
        self,
        samples: int,
        shape: tuple[int, ...],
        device: torch.device | str = "cpu",
        kind: Kind = "fp32",
        scale: float = 1.0,
    ) -> None:
        dtype = {"fp32": torch.get_default_dtype(), "fp16": torch.float16, "int8": torch.int8}[kind]
        self.rows = torch.zeros((samples, *shape), dtype=dtype, device=device)
        self._largest = (torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)).max
        # A tensor, as CUDA would multiply by the rounded reciprocal of a Python number.
        self._scale = torch.full((), scale, device=device)
        self._scaled = scale != 1

    def read(self, index: Int[Tensor, " B"]) -> Float[Tensor, "B *shape"]:
        """Return a copy of the samples' rows, in PyTorch's default precision."""
        rows = self.rows.index_select(0, index).to(self._scale.dtype)
        return rows / self._scale if self._scaled else rows

    def write(self, index: Int[Tensor, " B"], values: Float[Tensor, "B *shape"]) -> None:
        """Replace the rows of these samples and of those that the other ranks write; an index must not occur twice."""
        # Every rank keeps every row, as the next epoch shows its samples to others.
        self.rows.index_copy_(0, ranks.rows(index), ranks.rows(self._stored(values)))

    def fill(self, draw: Callable[[Tensor], Tensor]) -> None:
        """Replace all rows by `draw(like)`, which is called for some of them at a time: all at once may be too large."""
        for first in range(0, len(self.rows), _PART):
            part = self.rows[first : first + _PART]
            part.copy_(self._stored(draw(torch.zeros_like(part, dtype=self._scale.dtype))))

    def _stored(self, values: Tensor) -> Tensor:
        values = values.to(self._scale.dtype)
        scaled = values * self._scale if self._scaled else values
        if not self.rows.is_floating_point():
            scaled = scaled.round()
        return scaled.clamp(-self._largest, self._largest).to(self.rows.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the rows as they are stored, for a checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy the rows of a checkpoint into this memory; raises BadInput if they differ in shape or kind."""
        rows = state["rows"]
        if (rows.shape, rows.dtype) != (self.rows.shape, self.rows.dtype):
            raise BadInput(
                f"This run's memory of {_described(self.rows)} cannot take the checkpoint's of {_described(rows)}: "
                "resume it with its own images and its own kind of memory."
            )
        self.rows.copy_(rows)


def _described(rows: Tensor) -> str:
    return f"{tuple(rows.shape)} {str(rows.dtype).removeprefix('torch.')}"
