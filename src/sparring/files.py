"""Files that are whole or absent: written under a temporary name in the same folder, then renamed; and damage found."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from sparring.errors import BadInput, shown


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path` to write to; it takes the place of `path` if the block ends well.

    Readers, and a process killed at any moment, find the old file or the new one. Raises BadInput if the disk is full or
    the folder cannot be written; the old file then stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # safetensors writes files that nobody else may read
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        if _out_of_space(error):
            raise BadInput(f"The disk is full, {path} was not written: free some space and run again.") from error
        # None that can be made, as in /proc.
        no_folder = isinstance(error, FileNotFoundError) and not path.parent.is_dir()
        if no_folder or (isinstance(error, OSError) and error.errno in _FORBIDDEN):
            raise _forbidden(path) from error
        raise
    finally:
        with suppress(OSError):  # there is none where its folder could not be made
            temporary.unlink()


def _umask() -> int:
    """Return the permissions that new files do not have; the system tells them only to who sets others."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def path_of(name: str, value: object) -> Path:
    """Return a path that may be given as a text; raises BadInput, naming it `name`, for what is none."""
    if isinstance(value, Path) or (isinstance(value, str) and value and "\0" not in value):
        return Path(value)
    raise BadInput(f"{name} must be a path, as a text or a pathlib.Path, not {shown(value)}.")


def read_text(path: Path) -> str:
    """Return the content of a text file, without a byte order mark; raises BadInput if it is not UTF-8 or not readable."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text: byte {error.start} cannot be read. Save it as UTF-8.") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error


def zip_is_whole(path: Path) -> bool | None:
    """Return whether a zip, such as `torch.save` writes, holds what was written, by the CRC-32 of each record.

    `torch.load` does not compare them. None where there are none: after `torch.serialization.set_crc32_options(False)`
    PyTorch writes zeros.
    """
    try:
        with zipfile.ZipFile(path) as records:
            if not any(record.CRC for record in records.infolist()):
                return None
            return records.testzip() is None
    except Exception:  # damaged headers make zipfile stumble in many ways
        return False


def check_writable(path: Path) -> None:
    """Raise BadInput where `replacing` would find, after long work, that it may not write to `path`."""
    folder = path.absolute().parent
    try:
        while not folder.exists():
            folder = folder.parent
    except OSError as error:  # a name that is too long
        raise BadInput(f"{path} cannot be written ({error.strerror}): choose another name.") from error
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise _forbidden(path)


def _forbidden(path: Path) -> BadInput:
    return BadInput(f"{path} cannot be written: choose a folder that you may write to.")


_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
# What torch.save (first three) and safetensors make of the system's error.
_FULL = ("PytorchStreamWriter failed", "unexpected pos", "iostream error", "No space left", "File too large")


def _out_of_space(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(words in str(error) for words in _FULL)
