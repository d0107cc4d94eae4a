"""How many images go through a network at once, and what to do when its memory is too small for them."""

from __future__ import annotations

import torch

from sparring.errors import BadInput

_CPU_ALLOCATOR = ("not enough memory", "can't allocate memory")  # PyTorch has no class of its own for it on the CPU


class Capacity:
    """A number of images, halved whenever so many do not fit into memory."""

    def __init__(self, rows: int) -> None:
        """Raise BadInput for fewer than one."""
        if rows < 1:
            raise BadInput(f"The batch size is {rows}: give at least 1.")
        self.rows = rows

    def shrink(self, error: RuntimeError) -> None:
        """Halve the rows from now on. Raise `error` again if it is not about memory, and BadInput if one is too many."""
        if not is_about_memory(error):
            raise error
        if self.rows == 1:
            raise BadInput(
                "The memory is too small for a single image: use another device or a smaller model."
            ) from error
        self.rows //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_about_memory(error: BaseException | None) -> bool:
    """Return whether an error says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _CPU_ALLOCATOR)
