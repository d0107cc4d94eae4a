"""BatchNorm folded into the convolution before it, for as long as neither weights nor statistics change.

In evaluation mode BatchNorm scales and shifts each channel, which the convolution can do itself, with other weights: its
passes over memory, forwards and backwards, are then saved. Attacks in that mode and evaluations need no more.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias, cast

import torch
from torch import Tensor, fx, nn

Fold: TypeAlias = tuple[str, str]  # the names of a convolution and of the BatchNorm that follows it
_Pair: TypeAlias = tuple[nn.Conv2d, nn.BatchNorm2d]

_CLOSE = 1e-3  # of the logits' spread: rounding moves folded networks' logits far less, a wrong fold far more


def foldable(network: nn.Module, shape: Sequence[int]) -> tuple[Fold, ...]:
    """Return what can be folded in a network of images (C, H, W); nothing where that would change its answers.

    Tried on a copy, on the CPU, with random statistics and weights of the norms: new ones' 0 and 1 would hide a mistake.
    """
    try:
        plain = copied(network).cpu().eval().requires_grad_(False)
    except (RuntimeError, TypeError):
        return ()
    generator = torch.Generator().manual_seed(0)
    names = dict(plain.named_modules())  # of a module with several, the first alone
    found = tuple(pair for pair in _pairs(plain) if all(name in names for name in pair))
    for _, norm in _modules(plain, found):
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            assert tensor is not None
            tensor.uniform_(0.5, 1.5, generator=generator)
    dtype = next((weight.dtype for weight in plain.parameters()), torch.float32)
    sample = torch.rand(1, *shape, generator=generator).to(dtype)
    return found if _agree(plain, found, sample) else ()


def copied(network: nn.Module) -> nn.Module:
    """Return a copy that shares nothing with the network.

    Raises RuntimeError or TypeError where there is none: modules that hold tensors with a graph, or locks, refuse, and
    others return themselves.
    """
    made = copy.deepcopy(network)
    # Lists, as scripted modules make these objects when they are asked for, and two of them may have one address in turn.
    parts, again = ([*one.modules(), *one.parameters(), *one.buffers()] for one in (network, made))
    if {id(part) for part in parts} & {id(part) for part in again}:
        raise TypeError(f"A copy of {type(network).__name__} shares modules or tensors with it.")
    return made


@contextmanager
def folded(network: nn.Module, folds: Sequence[Fold], dtype: torch.dtype | None = None) -> Iterator[None]:
    """Let the network in evaluation mode answer with these folded, the new weights in `dtype` (None: their own).

    They are computed on entering, without gradients, and the network is as before on leaving. Inside another such block
    for the same network nothing happens. A forward in training mode raises RuntimeError inside.
    """
    pairs = _modules(network, folds)
    if any("forward" in vars(module) for pair in pairs for module in pair):
        yield
        return
    try:
        _replace_forwards(pairs, dtype)
        yield
    finally:
        for pair in pairs:
            for module in pair:
                vars(module).pop("forward", None)


def fold(network: nn.Module, folds: Sequence[Fold]) -> None:
    """Fold these for good, in a network that stays in evaluation mode and on its device.

    Modules and weights stay what they are, as a network may ask for them; only the forward passes of the folded ones change.
    """
    _replace_forwards(_modules(network, folds), None)


def _replace_forwards(pairs: Sequence[_Pair], dtype: torch.dtype | None) -> None:
    for (convolution, norm), (weight, bias) in zip(pairs, _merged(pairs, dtype), strict=True):
        # An attribute of the object goes before the method of its class, also for those who call the module.
        convolution.forward = partial(convolution._conv_forward, weight=weight, bias=bias)  # type: ignore[method-assign]
        norm.forward = partial(_passed, norm)  # type: ignore[method-assign]


def _modules(network: nn.Module, folds: Sequence[Fold]) -> list[_Pair]:
    modules = dict(network.named_modules())
    return [(cast(nn.Conv2d, modules[one]), cast(nn.BatchNorm2d, modules[other])) for one, other in folds]


def _passed(norm: nn.BatchNorm2d, input: Tensor) -> Tensor:
    if norm.training:
        raise RuntimeError("A BatchNorm in training mode is folded into its convolution, by the running statistics.")
    return input


def _pairs(module: nn.Module, prefix: str = "") -> Iterator[Fold]:
    """Yield the folds of the module's graph where it can be traced, and else of its parts' graphs."""
    try:
        graph = fx.Tracer().trace(module)
    except Exception:  # whatever anybody's network makes of inputs that are no tensors
        for name, child in module.named_children():
            yield from _pairs(child, f"{prefix}{name}.")
        return
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(node.target for node in nodes)
    for norm in nodes:
        convolution = norm.args[0] if norm.args else None
        if not isinstance(convolution, fx.Node) or convolution.op != "call_module" or len(convolution.users) > 1:
            continue
        names = str(convolution.target), str(norm.target)
        if calls[names[0]] == calls[names[1]] == 1 and _fit(*(module.get_submodule(name) for name in names)):
            yield prefix + names[0], prefix + names[1]


def _fit(convolution: nn.Module, norm: nn.Module) -> bool:
    """Return whether they are what they seem: no subclasses, which may do more, and nothing that looks on."""
    return (
        type(convolution) is nn.Conv2d
        and type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.running_mean is not None
        and not any(
            "forward" in vars(module) or any(value for name, value in vars(module).items() if name.endswith("_hooks"))
            for module in (convolution, norm)
        )
    )


@torch.no_grad()
def _merged(pairs: Sequence[_Pair], dtype: torch.dtype | None) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution that does its BatchNorm's work: w s and beta + (b - mean) s, s = gamma / std."""
    if not pairs:
        return []
    norms = [norm for _, norm in pairs]
    gammas, betas, means, variances = (
        [getattr(norm, name) for norm in norms] for name in ("weight", "bias", "running_mean", "running_var")
    )
    deviations = torch._foreach_sqrt(torch._foreach_add(variances, [norm.eps for norm in norms]))
    scales = torch._foreach_div(gammas, deviations)
    biases = torch._foreach_addcmul(betas, means, scales, value=-1)
    merged = []
    for (convolution, _), scale, bias in zip(pairs, scales, biases, strict=True):
        own = convolution.bias
        shifted = bias if own is None else bias + own * scale
        weight = convolution.weight * scale[:, None, None, None]
        merged.append((weight.to(dtype), shifted.to(dtype)) if dtype else (weight, shifted))
    return merged


@torch.no_grad()
def _agree(plain: nn.Module, folds: Sequence[Fold], sample: Tensor) -> bool:
    """Return whether the network, with these folded, says the same."""
    try:
        expected = plain(sample)
        with folded(plain, folds):
            found = plain(sample)
        spread = (expected.amax(1) - expected.amin(1)).clamp_min(torch.finfo(expected.dtype).tiny)
        return found.shape == expected.shape and bool(((found - expected).abs().amax(1) <= _CLOSE * spread).all())
    except Exception:  # whatever anybody's network does with a single image, or answers
        return False
