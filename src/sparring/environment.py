"""What a number was obtained with: versions, commit and hardware, for the records."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def environment() -> dict[str, str | int]:
    """Return the versions of Python, PyTorch and Sparring, the commit (empty outside a checkout), the hardware and time."""
    return {
        "sparring": installed_version(),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def installed_version() -> str:
    """Return the version of the package that is installed; empty where there is none."""
    try:
        return version("sparring")
    except PackageNotFoundError:  # run from its sources
        return ""


def _commit() -> str:
    """Return the checkout that this package runs from, with a + where it has uncommitted changes."""
    source = Path(__file__).resolve().parent
    tracked = _git(source, "ls-files", "--error-unmatch", "environment.py")
    if not tracked:  # installed somewhere inside another project's checkout, or nowhere near one
        return ""
    commit = _git(source, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return ""
    return commit + ("+" if _git(source, "status", "--porcelain") else "")


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    """Return the model name where the system tells it (Linux), else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
