"""Decoded pixels on disk, keyed by what they were decoded from, so that a data set is decoded once per machine.

The cache is a convenience: whatever is wrong with it, the data are decoded again and the run goes on.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparring.errors import BadInput
from sparring.files import replacing

_FORMAT = "2"  # to be raised whenever the same files would be decoded to other pixels


def folder() -> Path:
    """Return where the cache lies: $SPARRING_CACHE, else $XDG_CACHE_HOME/sparring, else ~/.cache/sparring."""
    if named := os.environ.get("SPARRING_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparring"


def digest(*parts: str) -> str:
    """Return the SHA-256 of some texts, in hexadecimal; ("ab", "c") and ("a", "bc") differ."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def digest_files(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the contents of files in this order, read as a stream; their names do not matter.

    A file that cannot be read counts as one with other contents: who decodes it will say what is wrong with it.
    """
    digests = []
    for file in files:
        try:
            with file.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            digests.append(f"{error.strerror}")
    return digest(*digests)


def cached(key: str, make: Callable[[], Tensor]) -> UInt8[Tensor, "N C H W"]:
    """Return the pixels stored under `key`; where there are none, or not whole, those that `make`
    returns, stored for later.

    Warns where they cannot be stored.
    """
    file = folder() / f"{digest(_FORMAT, key)}.safetensors"
    pixels = _read(file)
    if pixels is None:
        pixels = make()
        try:
            _write(file, pixels)
        except (OSError, BadInput) as error:
            warnings.warn(
                f"The decoded images could not be cached in {file.parent} ({error}): they will be decoded again "
                "next time, unless SPARRING_CACHE names a folder with enough space.",
                stacklevel=2,
            )
    return pixels


def _read(file: Path) -> Tensor | None:
    """Return the pixels in a cache file, None where it is absent or was damaged."""
    try:
        with safe_open(file, framework="pt") as content:
            pixels: Tensor = content.get_tensor("pixels")
            whole = (content.metadata() or {}).get("crc32") == _checksum(pixels)
    except (OSError, SafetensorError):
        return None
    return pixels if whole else None


def _write(file: Path, pixels: Tensor) -> None:
    """Store pixels so that other processes see the whole file or none, also after a power cut."""
    with replacing(file) as temporary:
        save_file({"pixels": pixels}, temporary, metadata={"crc32": _checksum(pixels)})


def _checksum(pixels: Tensor) -> str:
    if pixels.dtype != torch.uint8:  # nothing that this module wrote
        return ""
    return f"{zlib.crc32(pixels.contiguous().numpy().data):08x}"
