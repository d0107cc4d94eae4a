"""A file is the old one or the new one, whatever goes wrong in between."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from safetensors.torch import save_file

from sparring import configuration
from sparring.errors import BadInput
from sparring.experiment import Experiment
from sparring.files import check_writable, read_text, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def test_the_new_file_takes_the_place_of_the_old_one(old: Path) -> None:
    with replacing(old) as temporary:
        assert temporary.parent == old.parent  # a rename across file systems would not be atomic
        assert temporary != old
        temporary.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"
    assert names(old.parent) == ["file.txt"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), RuntimeError("CUDA error"), KeyError("x")])
def test_an_exception_passes_and_leaves_the_old_file(old: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, replacing(old) as temporary:
        temporary.write_text("half")
        raise error
    assert caught.value is error
    assert old.read_text() == "old"
    assert names(old.parent) == ["file.txt"]


def test_a_block_that_writes_nothing_is_an_error(old: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(old):
        pass
    assert old.read_text() == "old"


def test_the_contents_are_on_the_disk_before_the_name_moves(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        order.append("fsync")
        assert os.fstat(descriptor).st_size == len("new")
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        order.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    with replacing(old) as temporary:
        temporary.write_text("new")
    assert order == ["fsync", "replace"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("where", ["block", "fsync", "replace"])
def test_a_full_disk_is_said_in_a_sentence(old: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    if where == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif where == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(BadInput) as caught, replacing(old) as temporary:
        temporary.write_text("new")
        if where == "block":
            fail()
    assert str(caught.value) == f"The disk is full, {old} was not written: free some space and run again."
    assert isinstance(caught.value.__cause__, OSError)
    assert old.read_text() == "old"
    assert names(old.parent) == ["file.txt"]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process can grow beyond 1 MB, so that a write really fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("writer", ["bytes", "torch", "stream", "safetensors"])
def test_a_write_that_really_fails_leaves_the_old_file(old: Path, writer: str) -> None:
    with pytest.raises(BadInput, match="The disk is full"), replacing(old) as temporary:
        if writer == "bytes":
            temporary.write_bytes(bytes(1 << 22))
        elif writer == "torch":
            torch.save({"weights": torch.zeros(1 << 20)}, temporary)
        elif writer == "safetensors":
            save_file({"weights": torch.zeros(1 << 20)}, temporary)
        else:
            with temporary.open("wb") as stream:
                torch.save({"weights": torch.zeros(1 << 20)}, stream)
    assert old.read_text() == "old"
    assert names(old.parent) == ["file.txt"]


@pytest.mark.parametrize("method", ["mkdir", "replace", "open"])
def test_a_forbidden_folder_is_said_in_a_sentence(old: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(BadInput) as caught, pytest.MonkeyPatch.context() as patch:
        if method == "mkdir":
            patch.setattr(Path, "mkdir", fail)
        with replacing(old) as temporary:
            temporary.write_bytes(b"new")
            if method != "mkdir":
                patch.setattr(Path, method, fail)
    assert str(caught.value) == f"{old} cannot be written: choose a folder that you may write to."
    assert old.read_text() == "old"
    assert names(old.parent) == ["file.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write anywhere")
def test_a_folder_without_write_permission_is_said_in_a_sentence(old: Path) -> None:
    old.parent.chmod(0o500)
    try:
        with pytest.raises(BadInput, match="cannot be written"), replacing(old) as temporary:
            temporary.write_text("new")
        assert old.read_text() == "old"
    finally:
        old.parent.chmod(0o700)


def test_a_read_only_disk_is_said_in_a_sentence(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(BadInput), replacing(old) as temporary:
        temporary.write_text("new")
        monkeypatch.setattr(Path, "replace", fail)


def test_a_file_where_a_folder_should_be_is_said_in_a_sentence(old: Path) -> None:
    with pytest.raises(BadInput), replacing(old / "inside.txt") as temporary:
        temporary.write_text("new")
    assert old.read_text() == "old"


def test_a_folder_where_the_file_should_be_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput), replacing(tmp_path / "folder") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["folder"]


def test_a_killed_process_leaves_the_old_file(old: Path) -> None:
    """The block ends in os._exit: nothing is cleaned up, as under kill -9."""
    source = Path(sys.modules["sparring"].__file__ or "").parent
    script = (
        "import os, sys, types, pathlib\n"
        f"package = types.ModuleType('sparring'); package.__path__ = [{str(source)!r}]\n"
        "sys.modules['sparring'] = package  # without its imports, which take seconds\n"
        "from sparring.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(old)], check=False).returncode == 9
    assert old.read_text() == "old"
    assert all(name.startswith(".file.txt.") for name in names(old.parent) if name != "file.txt")
    with replacing(old) as temporary:
        temporary.write_text("new")
    assert old.read_text() == "new"


def test_text_may_begin_with_a_byte_order_mark_and_must_be_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_bytes("method: TRADES # é".encode("utf-8-sig"))
    assert read_text(file) == "method: TRADES # é"
    assert configuration.read(Experiment, file) == configuration.read(Experiment, "method: TRADES")
    file.write_bytes("method: TRADES # é".encode("latin-1"))
    for reader in (read_text, lambda file: configuration.read(Experiment, file)):
        with pytest.raises(BadInput, match=r"some.yaml is not UTF-8 text: byte 17 cannot be read. Save it as UTF-8"):
            reader(file)
    with pytest.raises(BadInput, match=r"nothing.yaml cannot be read: No such file"):
        read_text(tmp_path / "nothing.yaml")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_folder_that_cannot_be_made_is_said_to_be(tmp_path: Path) -> None:
    """Below /proc the system's answer to whoever may write is that there is no such file."""
    with pytest.raises(BadInput, match="cannot be written"), replacing(Path("/proc/x/config.yaml")) as file:
        file.write_text("a")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):  # of another file than the one to be written
        (tmp_path / "elsewhere/b").read_text()


def test_a_name_that_is_too_long_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be written"):
        check_writable(tmp_path / ("x" * 300) / "config.yaml")
