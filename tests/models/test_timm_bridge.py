"""timm's networks behave like ours, and what timm cannot do is said before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from sparring.errors import BadInput
from sparring.models import ModelDescription, create, load, save


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("name", "classes", "channels", "size"),
    [
        ("timm:test_resnet", 7, 3, 64),
        ("timm:resnet10t", 2, 1, (48, 64)),
        ("timm:vit_tiny_patch16_224", 10, 3, 64),  # a transformer must be told its size
        ("timm:test_vit.r160_in1k", 10, 3, 32),  # the tag is only for weights
    ],
)
def test_untrained_networks(name: str, classes: int, channels: int, size: int | tuple[int, int]) -> None:
    model = create(name, classes, channels=channels, size=size).eval()
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.rand(2, channels, height, width, requires_grad=True)
    logits = model(x)
    assert logits.shape == (2, classes)
    assert torch.equal(logits, model(x))
    logits[:, 0].sum().backward()
    assert x.grad is not None
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()
    assert not model.mean.any()
    assert (model.std == 1).all()


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("timm:resnet5O", 64, "'timm:resnet5O': did you mean 'timm:resnet50'"),
        ("timm:resnet50.a1_in2k", 64, "'timm:resnet50.a1_in2k': did you mean 'timm:resnet50.a1_in1k'"),
        ("timm:", 64, "Unknown timm model 'timm:'"),
        ("timm:inception_v3", 32, "timm:inception_v3 cannot take 3 x 32 x 32 images"),
        ("timm:test_vit", (32, 40), "timm:test_vit cannot take 3 x 32 x 40 images"),
    ],
)
def test_refusals(name: str, size: int | tuple[int, int], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        create(name, 10, size=size)


def test_a_download_that_fails_is_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BadInput, match="weights of timm:test_resnet could not be downloaded") as caught:
        create("timm:test_resnet", 10, size=64, pretrained=True)
    assert "\n" not in str(caught.value)
    assert "thrown while requesting" not in caplog.text, "the library that downloads says this for each of its attempts"


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(BadInput, match="no trained weights for timm:darknet17"):
        create("timm:darknet17", 10, size=64, pretrained=True)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """timm with its download replaced: the names whose weights were asked for."""
    original, asked = timm.create_model, []

    def create_model(name: str, *, pretrained: bool, num_classes: int, in_chans: int, img_size: object) -> nn.Module:
        if pretrained:
            asked.append(name)
        network: nn.Module = original(name, num_classes=num_classes, in_chans=in_chans, img_size=img_size)
        return network

    monkeypatch.setattr(timm, "create_model", create_model)
    return asked


def test_pretrained_networks_normalise_as_they_were_trained(downloads: list[str]) -> None:
    model = create("timm:test_resnet", 10, size=64, pretrained=True)
    assert downloads == ["test_resnet"]
    configuration = timm.models.get_pretrained_cfg("test_resnet")
    assert configuration is not None
    assert model.mean.flatten().tolist() == pytest.approx(configuration.mean)
    assert model.std.flatten().tolist() == pytest.approx(configuration.std)


def test_given_statistics_win_one_by_one(downloads: list[str]) -> None:
    model = create("timm:test_resnet", 10, size=64, pretrained=True, std=(1.0, 1.0, 1.0))
    assert (model.std == 1).all()
    assert model.mean.all()
    assert len(downloads) == 1


def test_pretrained_statistics_need_three_channels(downloads: list[str]) -> None:
    with pytest.raises(BadInput, match="length 3, but images have 1"):
        create("timm:test_resnet", 10, channels=1, size=64, pretrained=True)
    model = create("timm:test_resnet", 10, channels=1, size=64, pretrained=True, mean=[0.5], std=[0.5])
    assert model.mean.item() == 0.5


def test_a_saved_network_is_loaded_without_its_pretrained_weights(downloads: list[str], tmp_path: Path) -> None:
    model = create("timm:test_vit", 5, size=64, pretrained=True).eval()
    save(model, tmp_path, ModelDescription("timm:test_vit", classes=5, size=64))
    loaded = load(tmp_path)
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(x), model(x))
    assert torch.equal(loaded.mean, model.mean)
    assert downloads == ["test_vit"]
