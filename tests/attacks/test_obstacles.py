"""Networks without gradients, networks that write into their images, and callers who switch gradients off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.attacks import FAB, PGD, Attack, Square
from sparring.data import Data, Images, load
from sparring.errors import BadInput
from sparring.evaluation.doctor import diagnose
from sparring.evaluation.masking import probe_masking
from sparring.models import create
from sparring.threat import Threat

THREAT = Threat("Linf", "0.1")
CALLERS: list[Callable[[], AbstractContextManager[object]]] = [nullcontext, torch.no_grad, torch.inference_mode]


def network() -> nn.Module:
    torch.manual_seed(0)
    return create("smallconv", 10, channels=1, size=8, width=4).eval()


class Around(nn.Module):
    """A network behind a step of somebody's."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.step = network(), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.inner, x)


def without_grad(inner: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return inner(x)


def in_inference_mode(inner: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return inner(x)


def detached(inner: nn.Module, x: Tensor) -> Tensor:
    return inner(x.detach()) * torch.ones(1, requires_grad=True)  # a graph, without the pixels


def subtracting(inner: nn.Module, x: Tensor) -> Tensor:
    return inner(x.sub_(0.3))


def writing(inner: nn.Module, x: Tensor) -> Tensor:
    x[:, 0] -= 0.3
    return inner(x)


def writing_past_autograd(inner: nn.Module, x: Tensor) -> Tensor:
    x.data -= 0.3
    return inner(x)


def writing_for_gradients_alone(inner: nn.Module, x: Tensor) -> Tensor:
    return inner(x.sub_(0.3) if x.requires_grad else x - 0.3)


NO_GRADIENT = "The model gives no gradient of its logits to the pixels: take no_grad, inference_mode, detach"
WRITES = "The model writes into the images that it is given .* new tensors, such as x - mean"
OBSTACLES = dict.fromkeys((without_grad, in_inference_mode, detached), NO_GRADIENT)
OBSTACLES |= dict.fromkeys((subtracting, writing, writing_past_autograd, writing_for_gradients_alone), WRITES)


@pytest.fixture(scope="module")
def images() -> Images:
    return load(Data()).test.subset(torch.arange(20))


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("step", OBSTACLES)
@pytest.mark.parametrize("attack", [PGD(steps=2), FAB(targets=2, steps=2), FAB(steps=2)], ids=repr)
def test_attacks_say_what_is_in_their_way(step, caller, attack: Attack, images: Images) -> None:
    model = Around(step).eval()
    with caller(), pytest.raises(BadInput, match=OBSTACLES[step]):
        attack(model, images.pixels / 255, images.labels, THREAT)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("step", OBSTACLES)
@pytest.mark.parametrize("precision", ["exact", "search16"])
def test_so_does_an_evaluation_without_the_doctor(step, caller, precision, images: Images) -> None:
    model = Around(step).eval()
    with caller(), pytest.raises(BadInput, match=OBSTACLES[step]):
        sparring.evaluate(model, images, THREAT, "clean,pgd-2", doctor=False, precision=precision)


@pytest.mark.parametrize("step", [without_grad, in_inference_mode, detached])
def test_what_needs_no_gradient_goes_on_without(step, images: Images) -> None:
    attacks = {"clean": "clean", "mine": Square(queries=20)}
    found, expected = (
        sparring.evaluate(model, images, THREAT, attacks, doctor=False) for model in (Around(step).eval(), network())
    )
    assert found.accuracy("mine") == expected.accuracy("mine")


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
def test_callers_who_switch_gradients_off_get_the_same(caller, images: Images) -> None:
    """Also with images and labels that were made where gradients are off."""

    def answers(model: nn.Module) -> list[object]:
        own = Images(images.pixels.clone(), images.labels.clone(), images.index.clone())
        x, y, generator = own.pixels / 255, own.labels, torch.Generator().manual_seed(0)
        adversarial = [attack(model, x, y, THREAT, generator=generator) for attack in (PGD(steps=2), FAB(steps=2))]
        found = sparring.evaluate(model, own, THREAT, "clean,pgd-2,fab-t", doctor=False)
        findings = [*diagnose(model, own, THREAT, classes=10), *probe_masking(model, own, THREAT)]
        return [*(images.tolist() for images in adversarial), found.worst, [str(finding) for finding in findings]]

    model = network()
    expected = answers(model)
    with caller():
        assert answers(model) == expected


def test_a_model_made_under_inference_mode_is_refused(images: Images) -> None:
    with torch.inference_mode():
        model = network()
    said = r"The model was made under torch\.inference_mode, .* make it outside"
    with pytest.raises(BadInput, match=said):
        PGD(steps=2)(model, images.pixels / 255, images.labels, THREAT)
    for doctor in (True, False):
        with pytest.raises(BadInput, match=said):
            sparring.evaluate(model, images, THREAT, "clean", doctor=doctor)


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
def test_a_run_trains_the_same_weights(caller, tmp_path) -> None:
    short = ["--optimisation.epochs", "1", "--data.limit", "50", "--data.test_limit", "10", "--model.width", "4"]
    experiment = sparring.recipe("digits/fgsm-rs", short)
    sparring.train(experiment, tmp_path / "one")
    with caller():
        sparring.train(experiment, tmp_path / "other")
    one, other = (sparring.load(tmp_path / name).state_dict() for name in ("one", "other"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
