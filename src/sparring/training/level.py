"""Which level of speed a run has: eager, compiled, recorded as a CUDA graph, or both; and the arithmetic behind `auto`.

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

from sparring.attacks import PGD
from sparring.methods import Method
from sparring.methods.base import layers
from sparring.models import Fold
from sparring.training.compiler import Compiler
from sparring.training.recorder import CudaRecorder, Recorder

LevelName: TypeAlias = Literal["auto", "eager", "compile", "graph", "compile+graph"]


@dataclass(frozen=True)
class Plan:
    """How a run's steps are taken, and why so."""

    compiled: bool = False
    recorded: bool = False
    reason: str = ""

    @property
    def name(self) -> str:
        """As `runtime.level` spells it."""
        parts = [word for word, is_so in (("compile", self.compiled), ("graph", self.recorded)) if is_so]
        return "+".join(parts) or "eager"

    def compiler(self) -> Compiler | None:
        """What compiles the networks, if they are to be."""
        return Compiler() if self.compiled else None

    def recorder(self, device: torch.device) -> Recorder | None:
        """What records the steps, if they are to be."""
        return CudaRecorder(device) if self.recorded else None


@dataclass(frozen=True)
class Work:
    """What a run will compute, in floating-point operations; counted when asked for."""

    forward: Callable[[], float]  # a forward pass of every image that a step is taken on
    whole: Callable[[], float]  # all steps


@dataclass(frozen=True)
class _Pace:
    """What a run without compilation does on a device, and what compilation adds."""

    rate: float  # floating-point operations a second
    gain: float  # how many times faster a compiled step is


# A thread of a CPU with AVX-512, measured (docs/performance.md); slower ones would gain by compiling a little sooner. No GPU
# has been measured yet: theirs are estimates, from the bandwidth arithmetic of that page. All of them only decide whether a
# minute of compiling is worth it.
_CPU = {32: _Pace(1.5e11, 1.08), "bf16-mixed": _Pace(3e11, 1.0)}
_GPU = {32: _Pace(6e13, 1.25), "bf16-mixed": _Pace(2.0e14, 1.25)}
_MOST = 100  # forward passes that a step of the costliest method is worth; no run of less is counted any closer
# Seconds for each convolution and linear layer, all of a step's graphs together: of a ResNet-18 on two busy cores, by hand.
_COMPILING = 3.0


def plan(
    wanted: LevelName,
    device: torch.device,
    precision: int | str,
    method: Method,
    network: nn.Module,
    work: Work,
    folds: Sequence[Fold] = (),
) -> Plan:
    """The level for a run on this device; `folds` are the network's BatchNorms that attacks may do without."""
    no_compile, no_graph = _obstacle_to_compiling(method), _obstacle_to_recording(method, device)
    if wanted != "auto":
        compiled, recorded = "compile" in wanted, "graph" in wanted
        obstacles = [reason for reason in (no_compile if compiled else "", no_graph if recorded else "") if reason]
        return Plan(compiled and not no_compile, recorded and not no_graph, "; ".join(obstacles) or "as asked for")
    recorded = not no_graph
    if no_compile or (no_compile := _no_toolchain()):
        return Plan(False, recorded, no_compile)
    pace = _pace(device, precision)
    if pace.gain > 1 and device.type == "cpu" and _attacks_at_rest(method) and _is_folded(network, folds):
        return Plan(False, recorded, "its attacks fold BatchNorm away, which leaves compiling little to gain")
    compiled, reason = _weighed(pace, network, work)
    return Plan(compiled, recorded, reason)


def _weighed(pace: _Pace, network: nn.Module, work: Work) -> tuple[bool, str]:
    """Whether compiling pays, and the arithmetic."""
    matrices = sum(isinstance(module, nn.modules.conv._ConvNd | nn.Linear) for module in network.modules())
    cost, least = _COMPILING * matrices, pace.rate / (1 - 1 / pace.gain) if pace.gain > 1 else math.inf
    if _MOST * work.forward() < cost * least:
        return False, f"compiling, about {cost:.0f} s, does not pay in a run as short as this one"
    operations = work.whole()
    seconds, saved = operations / pace.rate, operations / least
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


def _attacks_at_rest(method: Method) -> bool:
    """Whether most of a step is an attack that leaves BatchNorm in evaluation mode: one of some steps."""
    attacks = [getattr(layer, "attack", None) for layer in layers(method)]
    return any(isinstance(attack, PGD) and attack.bn == "eval" and attack.steps > 2 for attack in attacks)


def _is_folded(network: nn.Module, folds: Sequence[Fold]) -> bool:
    """Whether nearly all of its BatchNorm is."""
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return 0 < 0.9 * norms <= len(folds)


def _obstacle_to_compiling(method: Method) -> str:
    if any(layer.twice_differentiated for layer in layers(method)):
        return f"{type(method).__name__} differentiates the network twice, which a compiled one does not allow"
    return ""


def _obstacle_to_recording(method: Method, device: torch.device) -> str:
    if device.type != "cuda":
        return "CUDA graphs need a GPU"
    if any(layer.waits for layer in layers(method)):
        return f"{type(method).__name__} makes the host wait for the device, which cannot be recorded"
    return ""


def _no_toolchain() -> str:
    compiler = os.environ.get("CXX", "g++")
    return "" if shutil.which(compiler) else f"no C++ compiler {compiler!r} for torch.compile"
