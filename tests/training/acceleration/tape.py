"""A capturer for tests: does on the CPU what a CUDA graph does on a GPU, with nothing but memory and operations.

While work is captured, its operations are noted with the very tensors that they read and wrote, and what they did to tensors
from outside is undone at the end: capture is not doing. A replay runs the operations again, on the same memory, without
any of the Python that led to them. What would go wrong in a CUDA graph goes wrong here: numbers are frozen, tensors that
were replaced by others are not noticed. What a tape cannot show is CUDA's own: streams, its allocator, its generators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from sparring.training.acceleration.cuda_graph import Capture, Capturer

T = TypeVar("T")


class Tape(TorchDispatchMode):
    """The operations of a piece of work, and what they found in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.played = 0
        self._operations: list[tuple] = []
        self._made: set[int] = set()  # memory that the work itself allocated
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # other memory that it wrote to, with what was there

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert func.overloadpacket.__name__ != "_local_scalar_dense", "a graph cannot wait for a number"
        for tensor in _written(func, args, kwargs):
            self._keep(tensor)
        result = func(*args, **kwargs)
        if not func.is_view:
            self._operations.append((func, args, kwargs, result))
        read = {_memory(tensor) for tensor in _tensors((args, kwargs))}
        self._made |= {_memory(tensor) for tensor in _tensors(result)} - read
        return result

    def undo(self) -> None:
        """Put back what was there."""
        for tensor, content in self._before.values():
            tensor.copy_(content)

    @override
    def replay(self) -> None:
        self.played += 1
        with torch._C._AutoDispatchBelowAutograd(), torch.no_grad():
            for func, args, kwargs, captured in self._operations:
                if func.overloadpacket.__name__ in {"empty", "empty_like", "empty_strided", "new_empty"}:
                    continue
                result = func(*args, **kwargs)
                for old, new in zip(_tensors(captured), _tensors(result), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def _keep(self, tensor: Tensor) -> None:
        place = _memory(tensor)
        if place not in self._made and place not in self._before:
            whole = tensor.detach()
            whole = torch.empty(0, dtype=whole.dtype).set_(whole.untyped_storage())
            self._before[place] = whole, whole.clone()


class TapeCapturer(Capturer):
    """Makes tapes; keeps them for tests to look at."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.warm_ups = 0
        self.obstacle = ""

    @override
    def warm_up(self, work: Callable[[], T]) -> T:
        self.warm_ups += 1
        with _Reads() as reads:
            result = work()
        self.obstacle = "it reads a number" if reads.count else ""
        return result

    @override
    def capture(self, work: Callable[[], T]) -> tuple[Capture, T]:
        state = torch.random.get_rng_state()
        tape = Tape()
        with tape:
            result = work()
        tape.undo()
        torch.random.set_rng_state(state)
        self.tapes.append(tape)
        return tape, result


class _Reads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ == "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _written(func, args: tuple, kwargs: dict) -> list[Tensor]:
    """The arguments that an operation writes to, as its schema says."""
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            found += _tensors(value)
    # Its schema keeps silent about the running statistics that it moves.
    if func.overloadpacket.__name__ == "native_batch_norm" and args[5]:
        found += [value for value in args[3:5] if isinstance(value, Tensor)]
    return found
