"""A check that pixels are not normalised twice, by what the modules in the network are given."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from sparring.evaluation.doctor.case import Case
from sparring.evaluation.doctor.finding import Finding

_NAMES = (("mean", "std"), ("mu", "sigma"))
_CLOSE = 1e-4


@dataclass(frozen=True)
class _Statistics:
    mean: Tensor  # (1, C or 1, 1, 1)
    std: Tensor

    def normalise(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def double_normalisation(case: Case, logits: Tensor) -> Finding | None:
    """Check whether a module that normalises gets what another module has normalised already."""
    seen = _normalisations(case)
    for (first, before), (second, after) in pairwise(seen):
        if _agree(first.normalise(before), after):
            return _twice(
                f"The model normalises twice: first with {_described(first)}, then with {_described(second)}",
                "Remove one of the two, unless the network was trained with both.",
            )
    return None


def _agree(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() < _CLOSE)


def _twice(seen: str, advice: str) -> Finding:
    why = "The network gets images unlike those that it was trained with, so clean and robust accuracy are too low."
    return Finding("double-normalisation", "warning", f"{seen}.", why, advice)


def _described(statistics: _Statistics) -> str:
    mean, std = (
        "(" + ", ".join(f"{value:.3g}" for value in values.flatten().tolist()) + ")"
        for values in (statistics.mean, statistics.std)
    )
    return f"mean {mean}, std {std}"


def _normalisations(case: Case) -> list[tuple[_Statistics, Tensor]]:
    """Return what the normalising modules are given in one pass, (B, C, H, W) each, in the order of their calls."""
    calls: list[tuple[_Statistics, Tensor]] = []
    with ExitStack() as stack:
        for module in case.model.modules():
            statistics = _statistics(module, case.x)
            if statistics is not None:

                def note(module: nn.Module, given: tuple[object, ...], own: _Statistics = statistics) -> None:
                    if given and isinstance(given[0], Tensor) and given[0].shape[1:] == case.x.shape[1:]:
                        calls.append((own, given[0].detach().clone()))

                stack.callback(module.register_forward_pre_hook(note).remove)
        case.logits(case.few)
    return calls


def _statistics(module: nn.Module, x: Tensor) -> _Statistics | None:
    """Return the module's own mean and std, where it has both, they fit images x (N, C, H, W), and they do something."""
    own = {**vars(module), **dict(module.named_buffers(recurse=False)), **dict(module.named_parameters(recurse=False))}
    for names in _NAMES:
        mean, std = (_per_channel(own.get(name), x) for name in names)
        if mean is not None and std is not None and not (bool((mean == 0).all()) and bool((std == 1).all())):
            return _Statistics(mean, std)
    return None


def _per_channel(values: object, x: Tensor) -> Tensor | None:
    if not isinstance(values, Tensor):
        numbers = values if isinstance(values, list | tuple) else [values]
        if not all(isinstance(value, int | float) for value in numbers):
            return None
        values = numbers
    tensor = torch.as_tensor(values, dtype=x.dtype, device=x.device).detach()
    return tensor.view(1, -1, 1, 1) if tensor.numel() in (1, x.shape[1]) else None
