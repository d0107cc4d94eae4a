"""What is saved is what is loaded, bit for bit; anything else is refused in a sentence."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from sparring.errors import BadInput
from sparring.models import ModelDescription, Normalised, create, create_from, load, save

DESCRIPTION = ModelDescription("smallconv", classes=3, class_names=("cat", "no", "3"), channels=1, size=(9, 8), width=4)


def trained() -> Normalised:
    """A network whose buffers have moved away from their initial values."""
    model = create("smallconv", 3, channels=1, size=(9, 8), width=4, mean=[0.3], std=[0.7])
    model(torch.rand(4, 1, 9, 8))
    return model


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    model = trained()
    save(model, tmp_path / "new" / "run", DESCRIPTION)
    loaded = load(tmp_path / "new" / "run")
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
        assert loaded.state_dict()[key].dtype == tensor.dtype, key
    x = torch.rand(5, 1, 9, 8)
    assert not loaded.training
    assert torch.equal(loaded(x), model.eval()(x))


def test_a_folder_and_a_file_name_and_nothing_temporary(tmp_path: Path) -> None:
    save(trained(), tmp_path / "best.safetensors", DESCRIPTION)
    save(trained(), tmp_path, DESCRIPTION)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["best.safetensors", "best.yaml", "model.safetensors", "model.yaml"]
    assert torch.equal(load(tmp_path / "best.safetensors").mean, load(tmp_path).mean)


def test_channels_last_is_saved_contiguous(tmp_path: Path) -> None:
    model = trained().to(memory_format=torch.channels_last)
    save(model, tmp_path, DESCRIPTION)
    loaded = load(tmp_path)
    key = "network.stage3.0.weight"
    assert not model.get_parameter(key).is_contiguous()
    assert loaded.get_parameter(key).is_contiguous()
    assert torch.equal(loaded.get_parameter(key), model.get_parameter(key))


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    model = trained()
    first, second = model.get_submodule("network.stage1.1"), model.get_submodule("network.stage2.1")
    second.weight = first.weight
    save(model, tmp_path, DESCRIPTION)
    assert torch.equal(load(tmp_path).get_parameter("network.stage2.1.weight"), first.get_parameter("weight"))


def test_loading_and_saving_leave_the_random_state_alone(tmp_path: Path) -> None:
    model = trained()
    before = torch.get_rng_state()
    save(model, tmp_path, DESCRIPTION)
    load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(trained(), tmp_path, DESCRIPTION)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(_state: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("sparring.models.weights.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save(trained(), tmp_path, DESCRIPTION)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "model.yaml"]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path: Path) -> None:
    save(trained(), tmp_path, DESCRIPTION)
    with (tmp_path / "model.safetensors").open("rb") as reader:
        before = (tmp_path / "model.safetensors").read_bytes()
        save(trained(), tmp_path, DESCRIPTION)
        assert reader.read() == before
    assert (tmp_path / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize("missing", ["model.safetensors", "model.yaml"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    save(trained(), tmp_path, DESCRIPTION)
    (tmp_path / missing).unlink()
    with pytest.raises(BadInput, match=missing):
        load(tmp_path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save(trained(), tmp_path, DESCRIPTION)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BadInput, match=r"model\.safetensors is not a valid"):
        load(tmp_path)


@pytest.mark.parametrize("damage", [lambda old: bytes([old ^ 1]), lambda old: b"\0" * 400])
def test_weights_that_are_not_those_that_were_written_are_refused(damage, tmp_path: Path) -> None:
    """A flipped bit or a block of zeros leaves a valid file."""
    model = trained()
    save(model, tmp_path, DESCRIPTION)
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little") + 100
    new = damage(content[begin])
    content[begin : begin + len(new)] = new
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"model.safetensors is damaged: .* Restore or train it again"):
        load(tmp_path)


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    model = trained()
    for number in range(8):
        save(model, tmp_path / str(number), DESCRIPTION)
    assert len({(tmp_path / str(number) / "model.safetensors").read_bytes() for number in range(8)}) == 1


def test_weights_of_before_checksums_are_loaded_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = trained()
    save(model, tmp_path, DESCRIPTION)
    assert not caplog.text
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = load(tmp_path)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())
    assert [each.split()[0] for each in caplog.messages] == [
        str(tmp_path / name) for name in ("model.safetensors", "model.yaml")
    ]
    assert all("has no checksum" in each for each in caplog.messages)


def test_a_description_of_before_its_checksum_is_used_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(trained(), tmp_path, DESCRIPTION)
    file = tmp_path / "model.safetensors"
    with safe_open(file, framework="pt") as content:
        of_weights = content.metadata()["sha256"].split()[0]
    save_file(load_file(file), file, metadata={"sha256": of_weights})
    assert load(tmp_path).state_dict().keys() == trained().state_dict().keys()
    assert [each.split()[0] for each in caplog.messages] == [str(tmp_path / "model.yaml")]


@pytest.mark.parametrize(
    ("old", "new"),
    [("levels: null", "levels: 16"), ("- cat", "- bat"), ("name: smallconv", "name: smallconv "), ("- 9", "- 8")],
)
def test_a_description_that_is_not_what_was_written_is_refused(tmp_path: Path, old: str, new: str) -> None:
    """Names and shapes of the weights fit it all the same."""
    save(trained(), tmp_path, DESCRIPTION)
    sidecar = tmp_path / "model.yaml"
    assert sidecar.read_text().count(old) == 1
    sidecar.write_text(sidecar.read_text().replace(old, new))
    with pytest.raises(BadInput, match=r"model.yaml is not what was written with model.safetensors: restore it"):
        load(tmp_path)


def test_a_description_copied_with_other_line_ends_is_the_same(tmp_path: Path) -> None:
    save(trained(), tmp_path, DESCRIPTION)
    sidecar = tmp_path / "model.yaml"
    sidecar.write_bytes(sidecar.read_bytes().replace(b"\n", b"\r\n"))
    assert b"\r\n" in sidecar.read_bytes()
    load(tmp_path)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    save(trained(), tmp_path, DESCRIPTION)

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return os.mkdir, (tmp_path / "exploded",)

    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadInput, match="not a valid"):
        load(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_another_number_of_classes_names_both(tmp_path: Path) -> None:
    save(trained(), tmp_path, DESCRIPTION)
    sidecar = tmp_path / "model.yaml"
    text = sidecar.read_text().replace("classes: 3", "classes: 100").replace("- cat\n- 'no'\n- '3'\n", "[]\n")
    sidecar.write_text(text.replace("class_names:\n", "class_names: "))
    with pytest.raises(BadInput, match="for 3 classes, but the description says 100"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(DESCRIPTION, classes=10, class_names=()), "for 3 classes, but the description says 10"),
        (replace(DESCRIPTION, channels=3), r"shape \(1, 1, 1, 1\) instead of \(1, 3, 1, 1\)"),
        (replace(DESCRIPTION, width=6), r"shape \(4, 1, 3, 3\) instead of \(6, 1, 3, 3\)"),
        (replace(DESCRIPTION, name="resnet18"), "'resnet18': it "),
    ],
)
def test_a_wrong_description_is_not_saved(tmp_path: Path, other: ModelDescription, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        save(trained(), tmp_path, other)
    assert not list(tmp_path.iterdir())


def test_a_wrapped_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="names differ"):
        save(nn.DataParallel(trained()), tmp_path, DESCRIPTION)


def test_create_from_uses_every_field() -> None:
    model = create_from(DESCRIPTION)
    assert model(torch.rand(2, 1, 9, 8)).shape == (2, 3)
    assert model.get_parameter("network.stage1.0.weight").shape == (4, 1, 3, 3)
