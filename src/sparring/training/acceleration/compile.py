"""torch.compile for networks that are attacked: a backward pass computes the gradients that it is asked for, no others.

PyTorch compiles one backward pass for all inputs of a network. An attack that asks for the gradient of the pixels would pay
for those of the weights too, unless the weights are frozen; and where the loss goes on with the attack's own forward pass,
as FGSM-MEP's does, they cannot be. Here that pass is compiled twice, for the pixels alone and for everything.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.autograd.graph import get_gradient_edge

Compiled: TypeAlias = Callable[[list[Any]], Sequence[Any]]  # takes its arguments as one list, which it may empty
Lowering: TypeAlias = Callable[
    [fx.GraphModule, Sequence[Any], bool, bool], Compiled
]  # graph, inputs, backward, inference

_CONVOLUTION = torch.ops.aten.convolution_backward.default
_MASK = 10  # the argument that says which of its three gradients, input, weight and bias, are computed
_GRAPHS = 64  # of a network: modes of BatchNorm, frozen or not, whole and smaller batches


def inductor(graph: fx.GraphModule, inputs: Sequence[Any], backward: bool, inference: bool) -> Compiled:
    """Return PyTorch's own compiler of graphs."""
    # PyTorch 2.11 uses what it deprecates: where warnings are errors, that would end the run.
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        from torch._inductor import config  # seconds, which only compiled runs should wait for
        from torch._inductor.compile_fx import compile_fx_inner

    # Random numbers are PyTorch's: the compiler's own need a pass over graphs that are not divided yet.
    with config.patch(fallback_random=True):
        compiled: Compiled = compile_fx_inner(graph, inputs, is_backward=backward, is_inference=inference)
    return compiled


class Compiler:
    """Makes the compiled form of a network, which shares its weights and can be attacked and trained."""

    def __init__(self, lowering: Lowering = inductor) -> None:
        self._lowering = lowering

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network as it is to be called, compiled apart for each mode, batch size and set of frozen weights."""
        # PyTorch's limits are for all networks of a class that the process has seen; beyond them it leaves them uncompiled.
        torch._dynamo.config.cache_size_limit += _GRAPHS
        torch._dynamo.config.accumulated_cache_size_limit += _GRAPHS
        # A kept graph is gone through twice: its buffers must not be reused the first time.
        torch._functorch.config.donated_buffer = False
        return _Compiled(network, self._form(network), self._form(network))

    def _form(self, network: nn.Module) -> Any:
        weights = list(network.parameters())

        def backend(graph: fx.GraphModule, inputs: list[Any]) -> Any:
            return self._differentiated(graph, inputs, weights)

        return torch.compile(network, backend=backend, dynamic=False)

    def _differentiated(self, graph: fx.GraphModule, inputs: list[Any], weights: Sequence[Tensor]) -> Any:
        from torch._dynamo.backends.common import aot_autograd
        from torch._functorch.partitioners import min_cut_rematerialization_partition
        from torch._inductor.decomposition import select_decomp_table

        pixels = {place for place, value in enumerate(inputs) if not isinstance(value, nn.Parameter)}

        def forward(part: fx.GraphModule, values: Sequence[Any]) -> Compiled:
            return self._lowering(part, values, False, False)

        def backward(part: fx.GraphModule, values: Sequence[Any]) -> Compiled:
            return _Backward(self._lowering, part, values, pixels, weights)

        def inference(part: fx.GraphModule, values: Sequence[Any]) -> Compiled:
            return self._lowering(part, values, False, True)

        differentiate = aot_autograd(
            fw_compiler=forward,
            bw_compiler=backward,
            inference_compiler=inference,
            partition_fn=min_cut_rematerialization_partition,
            decompositions=select_decomp_table,
            keep_inference_input_mutations=True,
        )
        return differentiate(graph, inputs)


class _Compiled(nn.Module):
    """A network in two compiled forms: with weights that are frozen, as in attacks, and with weights that are not.

    PyTorch 2.6 does not notice that weights were frozen or thawed: it would take the form without their gradients.
    """

    def __init__(self, network: nn.Module, trained: Any, frozen: Any) -> None:
        super().__init__()
        self.network = network
        self._forms = trained, frozen  # in a tuple, so that their modules are not this one's a second and a third time

    def forward(self, x: Tensor) -> Any:
        """Return what the network returns."""
        trained, frozen = self._forms
        return (trained if any(weight.requires_grad for weight in self.network.parameters()) else frozen)(x)


class _Backward:
    """A backward pass in two forms, of which the narrow one is compiled when it is first asked for."""

    def __init__(
        self,
        lowering: Lowering,
        graph: fx.GraphModule,
        inputs: Sequence[Any],
        pixels: set[int],
        weights: Sequence[Tensor],
    ) -> None:
        self._boxed_call = True  # PyTorch's mark for callables that take a list
        self._lowering, self._graph, self._inputs, self._pixels = lowering, graph, inputs, pixels
        self._weights = weights
        self._narrow = _keeping(graph, pixels)  # before the other form's compilation rewrites the graph
        self._whole = lowering(graph, inputs, True, False)

    def __call__(self, arguments: list[Any]) -> Sequence[Any]:
        """Return the gradients of the graph's inputs, None for those that are not asked for."""
        wanted = any(_is_wanted(weight) for weight in self._weights)
        return (self._whole if wanted else self._of_pixels)(arguments)

    @cached_property
    def _of_pixels(self) -> Compiled:
        return self._lowering(self._narrow, self._inputs, True, False)


def _is_wanted(weight: Tensor) -> bool:
    """Return whether the backward pass that is under way leads to this weight."""
    if not weight.requires_grad:
        return False
    # Looked up each time: kept, the node would remember the stream that it was made on.
    node = get_gradient_edge(weight).node
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # autograd's way to say that this very gradient was asked for by autograd.grad
        return True


def _keeping(graph: fx.GraphModule, places: set[int]) -> fx.GraphModule:
    """Return a copy of a backward graph that computes the gradients at these places of its output, and None elsewhere."""
    copy = fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    gradients = copy.graph_copy(graph.graph, known)
    assert isinstance(gradients, list | tuple)
    kept = tuple(value if place in places else None for place, value in enumerate(gradients))
    copy.output(kept).meta = dict(graph.graph.output_node().meta)
    copy.eliminate_dead_code()
    for node in copy.find_nodes(op="call_function", target=_CONVOLUTION):
        used = {user.args[1] for user in node.users if user.target is operator.getitem}
        mask = [place in used for place in range(3)]
        node.args = (*node.args[:_MASK], mask)
        node.meta["val"] = tuple(value if place in used else None for place, value in enumerate(node.meta["val"]))
    return fx.GraphModule(graph, copy)
