"""Networks of the user's own, by the function that makes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparring import api
from sparring.errors import BadInput
from sparring.models import imported, is_reference

SOURCE = """
import torch
from torch import nn

def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5))

def number():
    return 3

def broken():
    raise RuntimeError("no weights\\nhere")

def wrong_inside():
    return torch.nosuch

def ends():
    raise SystemExit("usage: mine")

class Skipped(BaseException):
    pass

def skips():
    raise Skipped("no GPU")

def interrupted():
    raise KeyboardInterrupt

def sized(size, *, depth=3):
    return nn.Linear(size, 10)

NETWORK = network()
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_tests.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_function_of_a_module_in_the_working_folder_makes_the_network() -> None:
    model = api.load("mine_for_tests:network")
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert not model.training


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("nowhere_at_all:network", "there is no module 'nowhere_at_all'"),
        ("mine_for_tests:absent", "has no 'absent'"),
        ("mine_for_tests:number", "returned int, not a torch.nn.Module"),
        ("mine_for_tests:broken", r"failed: .*mine_for_tests\.py, line 12: RuntimeError: no weights"),
        (
            "mine_for_tests:wrong_inside",
            r"failed: .*, line 15: AttributeError: module 'torch' has no attribute 'nosuch'",
        ),
        ("mine_for_tests:ends", r"failed: .*mine_for_tests\.py, line 18: SystemExit: usage: mine"),
        ("mine_for_tests:skips", r"failed: .*mine_for_tests\.py, line 24: Skipped: no GPU"),
        ("mine_for_tests:NETWORK", "is of type Sequential: give a function that returns the network"),
        (
            "mine_for_tests:sized",
            r"called without arguments, but takes \(size, \*, depth=3\) \(missing",
        ),
        ("mine_for_tests.py:network", "give the module's name without .py, mine_for_tests"),
        ("mine_for_tests", "not of the form"),
    ],
)
def test_what_is_not_there_or_not_a_network_is_said(reference: str, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        imported(reference)


@pytest.mark.parametrize("path", ["./mine_for_tests:network", "folder/mine_for_tests.py:network"])
def test_a_path_to_a_module_is_answered_with_its_name(path: str) -> None:
    with pytest.raises(BadInput, match=r"names no function: write mine_for_tests:network, which is looked for in"):
        api.load(path)


def test_ctrl_c_goes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        imported("mine_for_tests:interrupted")


def test_what_looks_like_a_reference() -> None:
    assert is_reference("package.module:function")
    for text in ("runs/mine", "model.safetensors", "C:\\weights", "a:b:c", "timm:resnet18.tv_in1k/x", ":f", "m:"):
        assert not is_reference(text)
