"""Two processes that share each batch end where one process does, for every method whose mathematics allow it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from tests.methods.cases import CASES
from tests.methods.shared_batch import EXCEPTIONS, results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    file = tmp_path_factory.mktemp("ranks") / "results.pt"
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.methods.shared_batch"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words, str(file)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(file, weights_only=True)


@pytest.fixture(scope="module")
def by_one() -> dict[str, Tensor]:
    return results(Fabric(accelerator="cpu", devices=1, precision="64-true"), rank=0)


@pytest.mark.parametrize("name", [name for name in CASES if name not in EXCEPTIONS])
def test_two_processes_end_where_one_does(name: str, by_one: dict, by_two: dict) -> None:
    torch.testing.assert_close(by_two[name], by_one[name], rtol=0, atol=1e-9, equal_nan=True)


def test_the_exceptions_are_named_and_exist() -> None:
    assert set(CASES) >= EXCEPTIONS
