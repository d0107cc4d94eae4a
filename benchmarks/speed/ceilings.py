"""What the machine can do at best: bytes copied a second, and matrix products a second. Every other figure is a share of it.

python -m benchmarks.speed.ceilings --json results/ceilings.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from rich.console import Console

from benchmarks.harness import timing
from benchmarks.harness.command import read, status
from benchmarks.harness.record import save
from sparring.environment import environment
from sparring.training import Runtime

BYTES = {"cuda": 2**32, "cpu": 2**28}  # of the array that is copied: well beyond every cache
SIDE = {"cuda": 8192, "cpu": 2048}  # of the square matrices
ROUNDS = 7


def measure(device: torch.device, rounds: int = ROUNDS, shrink: int = 1) -> dict[str, float]:
    """Return copied TB/s, read and written bytes counted, and TFLOP/s by precision; medians. `shrink` divides all sizes."""
    found = {"copy_tb_per_s": _copy(device, BYTES[device.type] // shrink, rounds)}
    side = SIDE[device.type] // shrink
    found["float32_tflop_per_s"] = _product(device, side, torch.float32, rounds)
    if device.type == "cuda":
        allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        found["tf32_tflop_per_s"] = _product(device, side, torch.float32, rounds)
        torch.backends.cuda.matmul.allow_tf32 = allowed
    found["bfloat16_tflop_per_s"] = _product(device, side, torch.bfloat16, rounds)
    return found


def _copy(device: torch.device, size: int, rounds: int) -> float:
    source = torch.randint(0, 127, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device, rounds) / 1e12


def _product(device: torch.device, side: int, dtype: torch.dtype, rounds: int) -> float:
    # Random numbers: on zeros a GPU draws less power and runs faster.
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(left)
    return 2 * side**3 / _best(lambda: torch.mm(left, right, out=result), device, rounds) / 1e12


def _best(work: Any, device: torch.device, rounds: int) -> float:
    """Return median seconds of one call, of several in a row a round, after a first round that is thrown away."""
    calls = 10 if device.type == "cuda" else 1

    def several() -> None:
        for _ in range(calls):
            work()

    times = [timing.seconds(several, device) / calls for _ in range(rounds + 1)]
    return median(times[1:])


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and record."""
    runtime = Runtime(arguments.device)
    found = measure(runtime.fabric().device)
    console = Console()
    facts = environment()
    console.print(timing.hardware(facts, runtime), highlight=False)
    for name, value in found.items():
        console.print(f"{name:24} {value:10.3f}", highlight=False)
    save("ceilings", arguments, facts, ceilings=found)


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    return status(lambda: run(read(parser, words)))


if __name__ == "__main__":
    sys.exit(main())
