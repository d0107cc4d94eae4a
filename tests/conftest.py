"""What all tests share: one thread each, a cache of their own, and where the real images lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[1].parent / "shared" / "data"

torch.set_num_threads(1)  # the networks are tiny, and two threads of two test processes wait for each other


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this session's own: no test writes to the home folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared() -> Callable[[str], str]:
    """The folder of a public data set beside the repository, by name; skips the test where it is absent."""

    def folder(name: str) -> str:
        if not (SHARED / name).is_dir():
            pytest.skip(f"../shared/data/{name} is not here")
        return str(SHARED / name)

    return folder


@pytest.fixture
def cifar10(shared: Callable[[str], str]) -> Path:
    """The folder of real CIFAR-10 images."""
    return Path(shared("cifar10"))


@pytest.fixture
def double_precision() -> Iterator[None]:
    """float64 as PyTorch's default, so also of Fabric's outputs and of memories: for tests that compare to 1e-10."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
