"""What a record says about where its number comes from: enough to repeat it, nothing about whose machine it was."""

from __future__ import annotations

import getpass
import json
import platform
import shutil
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from sparring import environment as module
from sparring.environment import environment

KEYS = ["sparring", "commit", "python", "torch", "processor", "threads", "gpu", "time"]


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module as if it had been installed in a folder of its own, outside any checkout."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.resolve().parent))
    folder = tmp_path / "package"
    folder.mkdir()
    shutil.copy(str(module.__file__), folder / "environment.py")
    monkeypatch.setattr(module, "__file__", str(folder / "environment.py"))
    return folder


def test_it_says_with_what() -> None:
    found = environment()
    assert list(found) == KEYS
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert type(found["torch"]) is str
    assert found["threads"] == torch.get_num_threads()
    assert found["processor"]
    assert bool(found["gpu"]) == torch.cuda.is_available()
    assert json.loads(json.dumps(found)) == found


def test_the_time_is_now_and_says_its_zone() -> None:
    time = datetime.fromisoformat(str(environment()["time"]))
    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)


def test_it_says_nothing_about_whose_machine_it_is() -> None:
    values = [str(value) for value in environment().values()]
    private = [str(Path.home()), str(Path.cwd()), str(Path(__file__).parents[1]), socket.gethostname()]
    if len(getpass.getuser()) > 3:
        private.append(getpass.getuser())
    for value in values:
        assert not value.startswith(("/", "~", "\\"))
        assert not any(word in value for word in private)


def test_the_threads_are_those_of_now() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert environment()["threads"] == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("elsewhere")
def test_outside_a_checkout_there_is_no_commit() -> None:
    assert environment()["commit"] == ""


def test_inside_another_projects_checkout_there_is_no_commit(elsewhere: Path) -> None:
    git(elsewhere, "init", "-q")
    (elsewhere / "theirs.txt").write_text("theirs")
    git(elsewhere, "add", "theirs.txt")
    git(elsewhere, "commit", "-qm", "theirs")
    assert environment()["commit"] == ""


def test_a_checkout_says_its_commit_and_whether_it_was_changed(elsewhere: Path) -> None:
    git(elsewhere, "init", "-q")
    git(elsewhere, "add", "environment.py")
    git(elsewhere, "commit", "-qm", "ours")
    commit = git(elsewhere, "rev-parse", "HEAD")[:12]
    assert environment()["commit"] == commit
    (elsewhere / "environment.py").write_text("changed")
    assert environment()["commit"] == f"{commit}+"


def test_a_checkout_without_a_first_commit_has_no_commit(elsewhere: Path) -> None:
    git(elsewhere, "init", "-q")
    git(elsewhere, "add", "environment.py")
    assert environment()["commit"] == ""


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["commit"] == ""


def test_run_from_its_sources_there_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise module.PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", absent)
    assert environment()["sparring"] == ""


def test_a_system_that_hides_its_processor_still_has_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path: Path, **_: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    assert environment()["processor"] == platform.machine()
