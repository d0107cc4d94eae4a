"""A function is taken for itself in another process, and for nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.evaluation.identity import identity
from sparring.threat import Threat
from tests.evaluation import functions
from tests.evaluation.functions import DIFFERENT, Attacker, Slotted, closing, reading, with_default, with_keyword


def test_whatever_a_function_depends_on_is_in_its_identity() -> None:
    found = {name: identity(function) for name, function in DIFFERENT.items()}
    assert None not in found.values()
    assert len(set(found.values())) == len(found)


def test_equal_functions_have_the_same_identity() -> None:
    for make in (closing, with_default, with_keyword, Attacker, Slotted):
        assert identity(make([1, torch.ones(2)])) == identity(make([1, torch.ones(2)]))


def test_a_global_that_changes_is_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(reading)
    monkeypatch.setattr(functions, "STEPS", 4)
    assert identity(reading) != before


def test_another_process_finds_the_same() -> None:
    program = (
        "from sparring.evaluation.identity import identity; from tests.evaluation.functions import DIFFERENT; "
        "print([identity(each) for each in DIFFERENT.values()])"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        )
        assert done.stdout.strip() == str([identity(each) for each in DIFFERENT.values()])


class Rewritten:
    """Says itself what matters of it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Rewritten, ()

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        return x


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    "value",
    [
        torch.Generator(),
        threading.Lock(),
        iter([1]),
        Rewritten(),
        torch.eye(2).to_sparse(),
        sys.__stdout__,
        nested(900),
    ],
    ids=["generator", "lock", "iterator", "of its own", "sparse", "file", "deep"],
)
def test_what_another_process_cannot_recognise_has_none(value: Any) -> None:
    assert identity(closing(value)) is None
    assert identity(partial(closing(1), value)) is None
    assert identity(Attacker(value)) is None


def test_what_contains_itself_is_written_once() -> None:
    one: list[Any] = [1]
    one.append(one)
    other: list[Any] = [2]
    other.append(other)
    assert None is not identity(closing(one)) != identity(closing(other)) is not None
