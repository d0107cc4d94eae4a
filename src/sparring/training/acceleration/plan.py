"""Which level of speed a run has: eager, compiled, captured as a CUDA graph, or both; and the arithmetic behind `auto`.

The choice is a function of the run and the machine, not of timings: a run that is resumed gets the same one again.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import nn

from sparring.methods import Method, Traits
from sparring.models import Fold
from sparring.training.acceleration.compile import Compiler
from sparring.training.acceleration.cuda_graph import Capturer, CudaCapturer

LevelName: TypeAlias = Literal["auto", "eager", "compile", "graph", "compile+graph"]


@dataclass(frozen=True)
class Plan:
    """How a run's steps are taken, and why so."""

    compiled: bool = False
    captured: bool = False
    reason: str = ""

    @property
    def name(self) -> str:
        """As `runtime.level` spells it."""
        parts = [word for word, is_so in (("compile", self.compiled), ("graph", self.captured)) if is_so]
        return "+".join(parts) or "eager"

    def compiler(self) -> Compiler | None:
        """Return what compiles the networks, if they are to be."""
        return Compiler() if self.compiled else None

    def capturer(self, device: torch.device) -> Capturer | None:
        """Return what captures the steps, if they are to be."""
        return CudaCapturer(device) if self.captured else None


@dataclass(frozen=True)
class _Pace:
    """What a run without compilation does on a device, and what compilation adds."""

    rate: float  # floating-point operations a second
    gain: float  # how many times faster a compiled step is


# Measured on a ResNet-18 (docs/performance.md): a thread of a CPU with AVX-512, where slower ones would gain by compiling a
# little sooner; an H200 in bf16, captured. In single precision a GPU is a guess, from steps that were not captured. All of
# them only decide whether a minute of compiling is worth it.
_CPU = {32: _Pace(1.5e11, 1.08), "bf16-mixed": _Pace(3e11, 1.0)}
_GPU = {32: _Pace(6e13, 1.25), "bf16-mixed": _Pace(1.3e14, 1.25)}
# Seconds for each convolution and linear layer, all of a step's graphs together: of a ResNet-18 on two busy cores, by hand;
# on a busy machine with a GPU it took 4.
_COMPILING = 3.0
_UNITS = 6  # forward passes of a step whose attack is not of PGD's form; one-step methods take 5 to 9


def plan(
    wanted: LevelName,
    device: torch.device,
    precision: int | str,
    method: Method,
    network: nn.Module,
    forward: Callable[[], float],
    folds: Sequence[Fold] = (),
) -> Plan:
    """Return the level for a run.

    `forward` counts, where the answer depends on it, the floating-point operations of one forward pass of every image that
    an optimizer step is taken on; `folds` are the network's BatchNorms that attacks may do without.
    """
    traits, name = method.traits(), type(method).__name__
    no_compile, no_graph = _obstacle_to_compiling(traits, name), _obstacle_to_capturing(traits, name, device)
    if wanted != "auto":
        compiled, captured = "compile" in wanted, "graph" in wanted
        obstacles = [reason for reason in (no_compile if compiled else "", no_graph if captured else "") if reason]
        return Plan(compiled and not no_compile, captured and not no_graph, "; ".join(obstacles) or "as asked for")
    captured = not no_graph
    if no_compile or (no_compile := _no_toolchain()):
        return Plan(False, captured, no_compile)
    pace = _pace(device, precision)
    if pace.gain > 1 and device.type == "cpu" and _attacks_in_eval_mode(traits) and _is_folded(network, folds):
        return Plan(False, captured, "its attacks fold BatchNorm away, which leaves compiling little to gain")
    compiled, reason = _weighed(pace, network, units(traits) * forward())
    return Plan(compiled, captured, reason)


def units(traits: Traits) -> int:
    """Estimate the forward passes that an optimizer step is worth; `sparring.training.cost` counts them exactly."""
    return _UNITS if traits.attack is None else 2 * traits.attack.steps + 3


def _weighed(pace: _Pace, network: nn.Module, operations: float) -> tuple[bool, str]:
    """Say whether compiling pays in a run of so many floating-point operations, and give the arithmetic."""
    matrices = sum(isinstance(module, nn.modules.conv._ConvNd | nn.Linear) for module in network.modules())
    cost, gained = _COMPILING * matrices, pace.rate / (1 - 1 / pace.gain) if pace.gain > 1 else math.inf
    seconds, saved = operations / pace.rate, operations / gained
    verdict = "pays" if saved > cost else "does not pay"
    return saved > cost, (
        f"compiling {verdict}: it takes about {cost:.0f} s and saves about {saved:.0f} s of {seconds:.0f} s "
        f"({operations / 1e15:.3g} PFLOP at {pace.rate / 1e12:.2g} TFLOP/s, {pace.gain:.2f}x when compiled)"
    )


def _pace(device: torch.device, precision: int | str) -> _Pace:
    if device.type == "cuda":
        return _GPU[precision]
    pace = _CPU[precision]
    return _Pace(pace.rate * torch.get_num_threads(), pace.gain)


def _attacks_in_eval_mode(traits: Traits) -> bool:
    """Say whether most of a step is an attack that leaves BatchNorm in evaluation mode: one of some steps."""
    return traits.attack is not None and traits.attack.bn == "eval" and traits.attack.steps > 2


def _is_folded(network: nn.Module, folds: Sequence[Fold]) -> bool:
    """Say whether nearly all of its BatchNorm is."""
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return 0 < 0.9 * norms <= len(folds)


def _obstacle_to_compiling(traits: Traits, name: str) -> str:
    if traits.double_backward:
        return f"{name} differentiates the network twice, which a compiled one does not allow"
    return ""


def _obstacle_to_capturing(traits: Traits, name: str, device: torch.device) -> str:
    if device.type != "cuda":
        return "CUDA graphs need a GPU"
    if traits.host_waits:
        return f"{name} makes the host wait for the device, which cannot be captured"
    return ""


def _no_toolchain() -> str:
    compiler = os.environ.get("CXX", "g++")
    return "" if shutil.which(compiler) else f"no C++ compiler {compiler!r} for torch.compile"
