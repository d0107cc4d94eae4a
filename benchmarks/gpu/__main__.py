"""Take measurements that are not done yet, by name, one after the other: `../gpu.sh` says which, and beside what.

    python -m benchmarks.gpu step-mep-graph race-mep --data DIR --folder DIR          # DIR: CIFAR-10's parquet files
    python -m benchmarks.gpu step-mep-graph --data DIR --folder DIR --dry             # very small, on a CPU

Each writes one small JSON file into `records/` of the folder. One that fails writes why, and the others are taken all the
same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.setting import DRY, Setting, Size
from benchmarks.gpu.stages import stages
from benchmarks.harness import timing
from benchmarks.harness.command import status
from benchmarks.harness.record import write
from sparring.environment import environment
from sparring.errors import BadInput, unknown
from sparring.training import Interrupted, Runtime


def take(chosen: Mapping[str, Callable[[], dict[str, Any]]], setting: Setting) -> int:
    """Take those that have no record; return 1 if one of them failed, else 0. Ends with a device that no longer answers."""
    failures = 0
    for name, work in chosen.items():
        file = setting.folder / "records" / f"{name}.json"
        if file.exists():
            continue
        timing.say(f"{name} ...")
        began, facts = time.monotonic(), where()  # while the device answers
        try:
            found = work()
        except Interrupted:  # what it has is kept, and no failure
            raise
        except Exception as error:  # of one method or level, of whatever kind: the others are worth having all the same
            found = {"failed": f"{type(error).__name__}: {error}"}
        write(file, {"stage": name, "environment": facts, **found})
        failed = "failed" in found
        timing.say(f"{name}: {time.monotonic() - began:.0f} s{'  FAILED: ' + found['failed'] if failed else ''}")
        failures += failed
        if failed and not _answers(setting.device):
            timing.say("The device no longer answers this process.")
            break
    return int(failures > 0)


def where() -> dict[str, str | int | None]:
    """Return the environment, with a GPU's driver, CUDA and cuDNN; outside a checkout the commit is the one in $COMMIT."""
    facts: dict[str, str | int | None] = {**environment()}
    facts["commit"] = facts["commit"] or os.environ.get("COMMIT", "")
    if torch.cuda.is_available():
        facts |= {"driver": _driver(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return facts


def _driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _answers(device: str) -> bool:
    """Say whether the device still computes: after some errors a process gets the same one for everything."""
    try:
        return torch.ones(2, device=device).sum().item() == 2
    except RuntimeError:
        return False


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 1 where a measurement failed, 2 for bad input, 3 where a run was stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help="what to measure")
    add("--data", type=Path, required=True, help="folder of CIFAR-10's parquet files")
    add("--folder", type=Path, required=True, help="where records and runs go")
    add("--dry", action="store_true", help="everything very small, on the CPU: whether it runs")
    options = parser.parse_args(words)
    try:
        return status(lambda: _measured(options))
    except Interrupted as stopped:
        timing.say(str(stopped))
        return 3


def _measured(options: argparse.Namespace) -> int:
    device = Runtime("cpu" if options.dry else "cuda").fabric().device.type
    if not options.data.is_dir():
        raise BadInput(f"There is no folder {options.data}: give --data the one with CIFAR-10's parquet files.")
    setting = Setting(device, options.data, options.folder, DRY if options.dry else Size())
    known = stages(setting)
    for name in options.names:
        if name not in known:
            raise unknown("measurement", name, list(known))
    (options.folder / "records").mkdir(parents=True, exist_ok=True)
    return take({name: known[name] for name in options.names}, setting)


if __name__ == "__main__":
    sys.exit(main())
