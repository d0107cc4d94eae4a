"""Random numbers that can be repeated: seeds made from several numbers, and streams that belong to a sample.

A training step draws from the device's default generator, seeded from (seed, step, rank). An evaluation draws from
`SampleStreams`, where the noise of an image depends on its own index and never on the batch it happens to sit in.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from sparring.choices import check_kind
from sparring.errors import BadInput

_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as a signed 64-bit number
_ODD = -3335678366873096957  # another odd number, which keeps a sample's turns apart from its elements


def check_seed(seed: object) -> None:
    """Raise BadInput for what is no whole number of 64 bits, which PyTorch's generators ask for."""
    check_kind("seed", seed, int)
    if not -(2**63) <= cast(int, seed) < 2**64:
        raise BadInput(f"seed must be a whole number of 64 bits, from -2^63 to 2^64 - 1, not {seed}.")


def seed_from(*parts: int) -> int:
    """Return one seed in [0, 2^63) from several integers, the same in every process and on every machine."""
    text = ",".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def initialised(seed: int) -> Iterator[None]:
    """Let the weights of modules that are created inside, on the CPU, depend on the seed alone.

    On leaving, the generator is in the state that it had before, so later draws are the same as without.
    """
    kept = torch.random.get_rng_state()
    torch.default_generator.manual_seed(seed_from(seed))
    try:
        yield
    finally:
        torch.random.set_rng_state(kept)


@contextmanager
def repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """Let all draws inside (PyTorch's, NumPy's, Python's) depend on the seed alone; restore the generators on leaving."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@dataclass(frozen=True)
class SampleStreams:
    """Counter-based random numbers: a function of (seed, sample index, stage, element), of nothing else.

    `index` (B,) holds the samples' indices in their data set; `stage` separates the draws of one evaluation (restarts,
    attacks). The numbers are splitmix64's (Steele, Lea and Flood, 2014), computed on the index's device.
    """

    seed: int
    index: Tensor
    stage: int = 0

    def at(self, stage: int) -> SampleStreams:
        """Return the same samples' streams for another stage."""
        return replace(self, stage=stage)

    def of(self, rows: Tensor) -> SampleStreams:
        """Return the streams of some of the samples."""
        return replace(self, index=self.index[rows.to(self.index.device)])

    def keys(self) -> Tensor:
        """Return a number (B,) that stands for each sample's stream: see `drawn`."""
        return _mix(self.index * _GOLDEN + seed_from(self.seed, self.stage))

    def uniform(self, like: Tensor) -> Tensor:
        """Return draws from [0, 1) in the shape (B, ...), dtype and device of `like`; 24 random bits each."""
        precision = torch.float64 if like.dtype == torch.float64 else torch.float32
        numbers = _unit(self.keys().to(like.device), math.prod(like.shape[1:]), precision).view_as(like)
        # Half precision would round the largest draws up to 1.
        return numbers.to(like.dtype).clamp_max(1 - torch.finfo(like.dtype).eps)


Generator: TypeAlias = torch.Generator | SampleStreams | None  # None: the default generator of the device


def uniform(like: Tensor, generator: Generator = None) -> Tensor:
    """Return draws from U[0, 1) in the shape, dtype and device of `like` (B, ...)."""
    if isinstance(generator, SampleStreams):
        return generator.uniform(like)
    return torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def normal(like: Tensor, generator: Generator = None) -> Tensor:
    """Return draws from N(0, 1) in the shape, dtype and device of `like` (B, ...)."""
    if isinstance(generator, SampleStreams):
        radius = torch.sqrt(-2 * torch.log1p(-generator.uniform(like)))  # Box and Muller
        return radius * torch.cos(2 * math.pi * generator.at(generator.stage + (1 << 32)).uniform(like))
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def rademacher(like: Tensor, generator: Generator = None) -> Tensor:
    """Return fair draws from {-1, +1} in the shape, dtype and device of `like` (B, ...)."""
    return torch.where(uniform(like, generator) < 0.5, -1.0, 1.0).to(like.dtype)


def drawn(keys: Tensor, turn: Tensor, count: int) -> Tensor:
    """Return `count` float32 draws from [0, 1) for each of the keys (B,) in its own turn (B,): (B,
    count), 24 random bits each.

    For searches that draw again and again: the draws of a sample's turn do not depend on what else is drawn.
    """
    return _unit(_mix(keys + (turn + 1) * _ODD), count, torch.float32)


def _unit(keys: Tensor, count: int, precision: torch.dtype) -> Tensor:
    element = torch.arange(count, device=keys.device)
    bits = _shift(_mix(keys[:, None] + element * _GOLDEN), 40)  # (B, count), 24 bits
    return bits.to(precision) / 2**24


def _shift(value: Tensor, bits: int) -> Tensor:
    """Return a logical right shift: torch's own repeats the sign bit."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    """Return the finaliser of splitmix64; 64-bit products wrap around, as they do in C."""
    value = (value ^ _shift(value, 30)) * -4658895280553007687
    value = (value ^ _shift(value, 27)) * -7723592293110705685
    return value ^ _shift(value, 31)
