"""What all tests share: one thread each, a cache of their own, and where the real images lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[1].parent / "shared" / "data"

torch.set_num_threads(1)  # the networks are tiny, and two threads of two test processes wait for each other


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes to the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """The folder of real CIFAR-10 images beside the repository."""
    folder = SHARED / "cifar10"
    if not folder.is_dir():
        pytest.skip("../shared/data/cifar10 is not here")
    return folder
