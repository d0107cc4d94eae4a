import hashlib
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparring.data import cache

PIXELS = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path))


class Maker:
    """Counts how often the pixels had to be made."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return PIXELS.clone()


def test_pixels_are_made_once_per_key(tmp_path):
    make = Maker()
    for expected_calls, key in ((1, "a"), (1, "a"), (2, "b"), (2, "a")):
        assert torch.equal(cache.cached(key, make), PIXELS)
        assert make.calls == expected_calls
    assert len(list(tmp_path.iterdir())) == 2  # and no drafts left behind


def _truncated(file):
    file.write_bytes(file.read_bytes()[:-5])


def _flipped(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def _foreign(file):
    file.write_bytes(b"not a cache file")


def _other_contents(file):
    save_file({"weights": torch.zeros(3)}, file)


@pytest.mark.parametrize("damage", [_truncated, _flipped, _foreign, _other_contents])
def test_a_damaged_file_is_ignored_and_rewritten(tmp_path, damage):
    make = Maker()
    cache.cached("a", make)
    (file,) = tmp_path.iterdir()
    damage(file)
    assert torch.equal(cache.cached("a", make), PIXELS)
    assert make.calls == 2
    cache.cached("a", make)
    assert make.calls == 2


def test_changing_what_was_read_does_not_change_the_cache():
    make = Maker()
    cache.cached("a", make)
    cache.cached("a", make).zero_()
    assert torch.equal(cache.cached("a", make), PIXELS)
    assert make.calls == 1


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="could not be cached.*SPARRING_CACHE"):
        assert torch.equal(cache.cached("a", Maker()), PIXELS)


def test_a_full_disk_costs_one_warning_and_leaves_nothing(tmp_path, monkeypatch):
    def full(tensors, file, metadata):
        Path(file).write_bytes(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.equal(cache.cached("a", Maker()), PIXELS)
    assert ["The disk is full" in str(warning.message) for warning in caught] == [True]
    assert list(tmp_path.iterdir()) == []


def test_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", "/somewhere/else")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.folder() == Path("/somewhere/else")
    monkeypatch.delenv("SPARRING_CACHE")
    assert cache.folder() == Path("/xdg/sparring")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path.home() / ".cache" / "sparring"


def test_digests_tell_contents_and_order_apart(tmp_path):
    files = []
    for name, content in (("one", b"ab"), ("two", b"c"), ("three", b"ab")):
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    one, two, three = files
    assert cache.digest_files([one, two]) == cache.digest_files([three, two])
    assert cache.digest_files([one, two]) != cache.digest_files([two, one])
    assert cache.digest_files([one]) == cache.digest(hashlib.sha256(b"ab").hexdigest())
    assert cache.digest("ab", "c") != cache.digest("a", "bc")
