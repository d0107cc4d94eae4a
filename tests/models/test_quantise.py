"""Rounded pixels, a gradient that passes, and levels that stay with the network wherever it goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparring
from sparring.attacks import PGD
from sparring.data import Data
from sparring.errors import BadInput
from sparring.experiment import Experiment, Model, train
from sparring.methods import AdversarialTraining
from sparring.models import ModelDescription, Normalised, create, create_from, load, save
from sparring.models.quantise import quantised
from sparring.optimisation import Optimisation
from sparring.threat import Threat
from sparring.training import Selection
from sparring.training.progress import Silent


def test_values_are_the_nearest_of_the_levels() -> None:
    x = torch.tensor([0.0, 0.1, 0.16, 0.17, 0.34, 0.49, 0.51, 0.9, 1.0]).view(1, 1, 3, 3)
    expected = torch.tensor([0, 0, 0, 1, 1, 1, 2, 3, 3]).view(1, 1, 3, 3) / 3
    assert torch.equal(quantised(x, 4), expected)
    assert torch.equal(quantised(x, 2), (x > 0.5).float())


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_there_are_that_many_values_and_none_is_further_than_half_a_level(levels: int) -> None:
    x = torch.linspace(0, 1, 4096, dtype=torch.float64).view(1, 1, 64, 64)
    rounded = quantised(x, levels)
    assert torch.equal(rounded.unique(), torch.arange(levels, dtype=torch.float64) / (levels - 1))
    assert (rounded - x).abs().max() <= 0.5 / (levels - 1) + 1e-12
    assert torch.equal(quantised(rounded, levels), rounded)


def test_bytes_survive_256_levels() -> None:
    x = torch.arange(256).view(1, 1, 16, 16) / 255
    assert torch.equal(quantised(x, 256), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_gradient_is_the_identitys_and_the_dtype_stays(dtype: torch.dtype) -> None:
    x = torch.rand(2, 3, 4, 4, dtype=dtype).requires_grad_()
    rounded = quantised(x, 16)
    assert rounded.dtype == dtype
    weights = torch.randn(2, 3, 4, 4, dtype=dtype)
    (gradient,) = torch.autograd.grad((rounded * weights).sum(), x)
    assert torch.equal(gradient, weights)


def test_the_gradient_is_taken_at_the_rounded_pixels() -> None:
    x = torch.tensor([0.2, 0.9]).view(1, 2, 1, 1).requires_grad_()
    quantised(x, 4).square().sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([2 / 3, 2.0]).view(1, 2, 1, 1))


def test_pixels_are_rounded_before_they_are_normalised() -> None:
    x = torch.rand(2, 3, 4, 4)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    fine, coarse = Normalised(nn.Flatten(), 3, mean, std), Normalised(nn.Flatten(), 3, mean, std, levels=5)
    assert torch.equal(coarse(x), fine((x * 4).round() / 4))
    assert not torch.allclose(coarse(x), fine(x), atol=1e-2)


def test_an_attack_finds_its_way_through() -> None:
    torch.manual_seed(0)
    model = create("smallconv", 10, channels=1, size=8, width=4, levels=16).eval()
    x = torch.rand(8, 1, 8, 8)
    y = model(x).argmax(1)
    adversarial = PGD(steps=3, start="zero")(model, x, y, Threat(eps=0.2))
    losses = [F.cross_entropy(model(images), y, reduction="none") for images in (x, adversarial)]
    assert (losses[1] > losses[0]).all()  # with the true gradient, zero, every image would stay where it is


def test_compiled_it_computes_the_same() -> None:
    module = Normalised(nn.Flatten(), 1, levels=16)
    compiled = torch.compile(module, backend="aot_eager")
    x = torch.rand(2, 1, 8, 8)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    assert torch.equal(compiled(ours), module(theirs))
    compiled(ours).square().sum().backward()
    module(theirs).square().sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", ["smallconv", "timm:test_resnet"])
def test_levels_are_not_among_the_weights_and_are_kept_in_the_description(tmp_path: Path, name: str) -> None:
    description = ModelDescription(name, classes=3, size=32, levels=4)
    model, fine = create_from(description).eval(), create_from(replace(description, levels=None)).eval()
    assert (model.levels, fine.levels) == (4, None)
    assert model.state_dict().keys() == fine.state_dict().keys()
    save(model, tmp_path, description)
    loaded = load(tmp_path)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(x), model(x))
    fine.load_state_dict(model.state_dict())
    assert not torch.equal(loaded(x), fine(x))


@pytest.mark.parametrize("levels", [-1, 0, 1, 257])
def test_levels_that_cannot_be_are_refused(levels: int) -> None:
    with pytest.raises(BadInput, match=f"between 2 and 256, not {levels}:"):
        create("smallconv", 10, levels=levels)
    with pytest.raises(BadInput, match=f"between 2 and 256, not {levels}:"):
        create_from(ModelDescription("smallconv", 10, levels=levels))


def test_a_quantised_network_is_trained_and_loaded_as_one(tmp_path: Path) -> None:
    experiment = Experiment(
        AdversarialTraining(PGD(steps=2)),
        data=Data(limit=128, validation=32),
        model=Model(width=4, levels=16),
        threat=Threat(eps=0.2),
        optimisation=Optimisation(epochs=1, batch_size=64),
        selection=Selection("pgd-2"),
    )
    train(experiment, tmp_path, report=Silent())
    model = sparring.load(tmp_path)
    assert model.levels == 16
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(model(x), model((x * 15).round() / 15))
