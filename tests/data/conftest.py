from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def cache_folder(tmp_path_factory):
    """A cache of this session's own, so that nothing is written to the home folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_CACHE", str(folder))
        yield folder


@pytest.fixture
def shared():
    """The folder of a public data set; skips the test where the packs are absent."""

    def folder(name):
        if not (SHARED / name).is_dir():
            pytest.skip(f"no data pack {name}")
        return str(SHARED / name)

    return folder
