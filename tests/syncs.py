"""A guard for tests: what makes a GPU's host wait is refused, on the CPU too."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoHostSync(TorchDispatchMode):
    """Refuses whatever reads a tensor's value on the host, or makes shapes depend on values; counts all calls."""

    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "item")

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.forbidden, f"{name} reads a tensor's value"
        if name in {"index", "index_put_", "index_put", "_unsafe_index"}:
            picks = [index for index in args[1] if index is not None]
            assert all(index.dtype != torch.bool for index in picks), "a boolean mask makes the shape depend on values"
        self.calls += 1
        return func(*args, **(kwargs or {}))
