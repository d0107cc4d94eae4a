"""Modules of the user's own: found in the working folder, and what they raise is said with its place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sparring.errors import BadInput
from sparring.importing import attribute, located

HELPER = "def divide():\n    return 1 / 0\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in ("mine_here", "helper_here"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "helper_here.py").write_text(HELPER)
    return tmp_path


def test_an_attribute_of_a_module_in_the_working_folder(here: Path) -> None:
    (here / "mine_here.py").write_text("import helper_here\nNUMBER = 3\n")
    assert attribute("mine_here", "NUMBER", "it") == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import torch\n\n1 / 0", "mine_here.py, line 3: ZeroDivisionError: division by zero."),
        ("import helper_here\nhelper_here.divide()", "helper_here.py, line 2: ZeroDivisionError: division by zero."),
        ("import torch\ntorch.zeros(-1)", "mine_here.py, line 2: RuntimeError: "),
        (
            "import torch\ntorch.nosuch",
            "mine_here.py, line 2: AttributeError: module 'torch' has no attribute 'nosuch'.",
        ),
        ("import not_installed", "mine_here.py, line 1: ModuleNotFoundError: No module named 'not_installed'."),
        ("from torch import nosuch", "mine_here.py, line 1: ImportError: cannot import name 'nosuch' from 'torch'"),
        ("def network(:", "mine_here.py, line 1: SyntaxError: invalid syntax."),
        ("import sys\nsys.exit(2)", "mine_here.py, line 2: SystemExit: 2."),
        ("raise KeyError('weights')", "mine_here.py, line 1: KeyError: 'weights'."),
        ("class Skipped(BaseException):\n    pass\nraise Skipped('no GPU')", "mine_here.py, line 3: Skipped: no GPU."),
        ("import asyncio\nraise asyncio.CancelledError", "mine_here.py, line 2: CancelledError: CancelledError."),
        ("def __getattr__(name):\n    raise OSError(name)", "mine_here.py, line 2: OSError: network."),
    ],
)
def test_what_a_module_raises_is_said_with_file_and_line(here: Path, text: str, said: str) -> None:
    (here / "mine_here.py").write_text(text)
    with pytest.raises(BadInput) as caught:
        attribute("mine_here", "network", "it")
    assert str(caught.value).startswith(f"it: {here}/{said}")
    assert "\n" not in str(caught.value)


def test_ctrl_c_goes_through(here: Path) -> None:
    (here / "mine_here.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        attribute("mine_here", "network", "it")


def test_what_is_not_there_is_named(here: Path) -> None:
    (here / "mine_here.py").write_text("NUMBER = 3\n")
    for module, name, said in [
        ("mine_here", "number", f"it: the module mine_here has no 'number' ({here}/mine_here.py)."),
        ("nowhere.models", "number", "it: there is no module 'nowhere' here or where Python looks."),
        ("mine_here.models", "number", "it: there is no module 'mine_here.models' here or where Python looks."),
        ("mine_here.py", "NUMBER", "it: give the module's name without .py, mine_here."),
    ]:
        with pytest.raises(BadInput) as caught:
            attribute(module, name, "it")
        assert str(caught.value) == said


def test_an_error_without_frames_is_said_without_a_place() -> None:
    assert located(ValueError("no\nmore")) == "ValueError: no"
