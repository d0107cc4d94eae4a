"""A device for tests that is not the host: PyTorch's meta device, whose tensors have shapes and no values.

A step that reads a value fails there; so does one that mixes devices. `nothing_on_the_host` refuses what else a CUDA graph
could not record, or would record once and for all: tensors that are made on the host and copied over.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ELSEWHERE = torch.device("meta")


@contextmanager
def nothing_on_the_host() -> Iterator[None]:
    """Refuses operations that read or make a tensor on the host."""
    with _NoValuesFromPython(), _NoHostTensors():
        yield


class _NoValuesFromPython(TorchFunctionMode):
    """`torch.tensor` copies from the host without an operation that says so."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in {torch.tensor, torch.as_tensor, torch.from_numpy}, f"{func.__name__} copies from the host"
        return func(*args, **(kwargs or {}))


class _NoHostTensors(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            assert not isinstance(value, Tensor) or value.device == ELSEWHERE, f"{func} touches the host"
        return result


class _Anywhere(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Any will do."""


def fabric() -> Fabric:
    """Of the device elsewhere."""
    return Fabric(strategy=SingleDeviceStrategy(ELSEWHERE, _Anywhere()))


@contextmanager
def settled() -> Iterator[None]:
    """What PyTorch holds against the meta device, put aside: fused optimizers, autocast, generators."""
    kernels = torch.library.Library("aten", "IMPL", "Meta")
    for name in ("_fused_sgd_", "_fused_adam_", "_fused_adamw_"):
        for variant in (name, f"{name}.tensor_lr"):
            if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{variant}", "Meta"):
                kernels.impl(variant, lambda *_, **__: None)
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("fused", "foreach"):
            lister = f"_get_{kind}_kernels_supported_devices"
            for module in [module for module in sys.modules.values() if lister in getattr(module, "__dict__", {})]:
                patch.setattr(module, lister, lambda: ["meta"])
        patch.setattr(torch, "is_autocast_enabled", lambda *_: False)
        patch.setattr(torch, "Generator", _generator)
        yield
    kernels._destroy()


_ON_THE_HOST = torch.Generator


class _NoGenerator:
    def manual_seed(self, seed: int) -> None:
        """The default one is used."""


def _generator(device: torch.device | str = "cpu") -> torch.Generator | _NoGenerator:
    return _NoGenerator() if torch.device(device) == ELSEWHERE else _ON_THE_HOST(device)
