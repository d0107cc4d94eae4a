"""How an evaluation computes: in which precision of the search, and how many images at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from sparring.attacks import Capacity, attackable, input_gradient
from sparring.choices import check_kind
from sparring.data import Images, batches
from sparring.errors import BadInput, unknown

Precision: TypeAlias = Literal["exact", "search16"]


def check_precision(precision: str | None) -> None:
    """Raise BadInput for what is no precision; None, the network as it is, is one."""
    if precision is not None and precision not in get_args(Precision):
        raise unknown("precision", str(precision), get_args(Precision))


def check_batch_size(size: object) -> None:
    """Raise BadInput for what is no number of images; None, as many as fit, is one."""
    check_kind("batch_size", size, int | None)
    if size is not None:
        Capacity(cast(int, size))


def check_device(device: torch.device | str) -> None:
    """Raise BadInput for what is no device, and for a GPU that is not here."""
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise BadInput(f"There is no device {device!r}: write cpu, or cuda for a GPU.") from error
    if chosen.type != "cuda":
        _check_computes(chosen)
        return
    there = torch.cuda.device_count()
    if not there:
        raise BadInput(f"The device is {device}, but PyTorch sees no GPU here: use cpu.")
    if chosen.index is not None and chosen.index >= there:
        raise BadInput(f"There is no device {device}: PyTorch sees {there} GPU(s), the first being cuda:0.")


def _check_computes(device: torch.device) -> None:
    """Raise BadInput for a device that PyTorch knows of and cannot use here, or, as meta, that holds no numbers."""
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # each kind of device fails in its own way
        raise BadInput(f"PyTorch cannot compute on the device {device} here: write cpu, or cuda for a GPU.") from error


def low_precision(device: torch.device | str) -> torch.dtype:
    """Return the 16-bit type to search in: fp16, with TF32's mantissa, on GPUs; bf16 on CPUs, which have no fast fp16."""
    return torch.float16 if torch.device(device).type == "cuda" else torch.bfloat16


def pays_16_bits(device: torch.device | str) -> bool:
    """Return whether 16 bits are faster than 32 there: on GPUs, and on processors with instructions for bf16."""
    if torch.device(device).type != "cpu":
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


_CPU_BATCH = 256  # larger ones are no faster there
_LARGEST, _SHARE = 4096, 0.5  # images; of the free memory, as searches remember a dozen images for each under attack
_TRIAL = 16  # images


def auto_batch_size(model: nn.Module, images: Images, device: torch.device | str) -> int:
    """Return a batch size that fits: a power of two, from what the gradient of a few images takes of a GPU's memory."""
    device = torch.device(device)
    if device.type != "cuda":
        return _CPU_BATCH
    x = next(batches(images.subset(torch.arange(min(_TRIAL, len(images)))), _TRIAL, device)).x
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with attackable(model, "eval"):
        input_gradient(model, x, lambda logits: logits.logsumexp(1))
    taken = (torch.cuda.max_memory_allocated(device) - before) / len(x)
    return rows_within(_SHARE * torch.cuda.mem_get_info(device)[0], taken)


def rows_within(memory: float, taken: float) -> int:
    """Return the largest power of two, at most 4096, whose images fit into so much memory if each takes so much of it."""
    most = max(int(memory / max(taken, 1)), 1)
    return min(2 ** (most.bit_length() - 1), _LARGEST)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put the network back on leaving, whatever was done to it inside.

    That is: the values of its parameters and buffers, gradients and who needs them, submodules, hooks, modes, and methods
    that were set on a module itself, as `forward` often is. What a module keeps in other attributes is out of reach.
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    methods = [_own_methods(module) for module in modules]
    contents = [(each, dict(each)) for module in modules for each in _dictionaries(module)]
    tensors = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    gradients = [
        (p, p.requires_grad, p.grad, None if p.grad is None else p.grad.detach().clone()) for p in model.parameters()
    ]
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for module, own in zip(modules, methods, strict=True):
            for name in _own_methods(module).keys() - own.keys():
                del vars(module)[name]
            vars(module).update(own)
        for now, before in contents:
            if list(now) != list(before) or any(now[name] is not value for name, value in before.items()):
                now.clear()
                now.update(before)
        for tensor, value in tensors:
            _put_back(tensor, value)
        for parameter, needed, gradient, copied in gradients:
            if parameter.requires_grad is not needed:  # the same is refused of tensors made under inference_mode
                parameter.requires_grad_(needed)
            parameter.grad = gradient
            if gradient is not None and copied is not None:
                _put_back(gradient, copied)


def _dictionaries(module: nn.Module) -> list[dict[str, Any]]:
    """Return those that every module has, of parameters, buffers, submodules, and hooks; TorchScript keeps its own."""
    own = [vars(module).get(name) for name, value in vars(nn.Module()).items() if isinstance(value, dict)]
    return [each for each in own if isinstance(each, dict)]


def _own_methods(module: nn.Module) -> dict[str, Any]:
    """Return the attributes that take the place of a method of the module's class."""
    return {name: value for name, value in vars(module).items() if callable(getattr(type(module), name, None))}


def _put_back(tensor: Tensor, value: Tensor) -> None:
    if (tensor.dtype, tensor.shape, tensor.device) != (value.dtype, value.shape, value.device):  # as after .double()
        tensor.data = value
    elif not torch.equal(tensor, value):  # a write would invalidate graphs that the caller may hold
        with torch.no_grad():
            tensor.copy_(value)
