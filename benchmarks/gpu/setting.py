"""Where and how large everything is that is measured on a GPU, or on a CPU to see whether it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.harness.ours import Way
from benchmarks.harness.scene import Scene
from sparring.training.acceleration.plan import LevelName


@dataclass(frozen=True)
class Size:
    """How large everything is: as published, or for a dry run."""

    width: int | None = None
    batch: int = 128
    rounds: int = 7
    shrink: int = 1  # divides the sizes of the ceilings' arrays
    steps: int = 12  # that are compared
    images: int | None = None  # of runs; None is all
    epochs: int | None = None  # of runs; None is the recipe's
    tested: int = 10_000  # images, at most
    attacks: tuple[str, ...] = ("clean", "pgd-50", "aa")
    searched: int | None = (
        None  # steps and queries of both AutoAttacks that are compared; None is the standard version's
    )


DRY = Size(4, 8, 1, 64, 3, 192, 1, 16, ("clean", "pgd-10"), 2)


@dataclass(frozen=True)
class Setting:
    """Where everything is, and how large."""

    device: Literal["cpu", "cuda"]
    data: Path  # CIFAR-10's parquet files
    folder: Path  # records are in it, runs below it
    size: Size

    @property
    def scene(self) -> Scene:
        """What steps are measured on."""
        return Scene(width=self.size.width, batch=self.size.batch, accelerator=self.device)

    def way(self, level: LevelName, compact: bool | None = None) -> Way:
        """Return how steps are taken at a level; on a CPU live and in single precision."""
        if self.device == "cpu":
            return Way(channels_last=True, compact=compact)
        return Way("bf16-mixed", channels_last=True, level=level, compact=compact)
