"""How an evaluation computes, and faster forms of the networks that Sparring makes; `test_optimised.py` has others."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import attackable
from sparring.evaluation.network import auto_batch_size, low_precision, rows_within
from sparring.evaluation.optimised import Form, agrees, forms
from sparring.models import create
from sparring.precision import full_precision
from sparring.threat import Threat


def network(name: str, width: int | None = 8) -> nn.Module:
    """With BatchNorm statistics that matter."""
    torch.manual_seed(0)
    model = create(name, 7, channels=3, size=16, width=width, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return model.train()


def fastest(model: nn.Module, x: Tensor) -> Form:
    with attackable(model, "eval"):
        return next(form for form in forms(model, x) if agrees(form, model, x, Threat()))


@pytest.mark.parametrize(
    "name", ["smallconv", "resnet18", "preactresnet18", "timm:resnet10t", "timm:vit_tiny_patch16_224"]
)
def test_it_says_what_the_network_says(name: str) -> None:
    model = network(name, None if name.startswith("timm") else 8) if "vit" not in name else _vit()
    x = torch.rand(5, 3, 16, 16)
    before = copy.deepcopy(model.state_dict())
    quick = fastest(model, x).network
    expected = copy.deepcopy(model).eval()(x).detach()
    torch.testing.assert_close(quick(x), expected, rtol=1e-4, atol=1e-4)
    x.requires_grad_()
    (theirs,) = torch.autograd.grad(copy.deepcopy(model).eval()(x).logsumexp(1).sum(), x)
    (ours,) = torch.autograd.grad(quick(x).logsumexp(1).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(not parameter.requires_grad for parameter in quick.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def _vit() -> nn.Module:
    torch.manual_seed(0)
    return create("timm:vit_tiny_patch16_224", 7, channels=3, size=16)


@pytest.mark.parametrize("name", ["smallconv", "resnet18", "timm:resnet10t"])
def test_no_batchnorm_is_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comes after a convolution."""
    x = torch.rand(2, 3, 16, 16)
    quick = fastest(network(name, None if name.startswith("timm") else 8), x).network
    monkeypatch.setattr(torch.nn.functional, "batch_norm", None)
    assert quick(x).shape == (2, 7)


def test_a_batch_size_is_a_power_of_two_that_fits() -> None:
    assert rows_within(1000.0, 10.0) == 64
    assert rows_within(1024.0, 8.0) == 128
    assert rows_within(5.0, 10.0) == 1
    assert rows_within(1e12, 1.0) == 4096


def test_on_a_cpu_the_batch_size_is_fixed() -> None:
    from sparring.data import Images

    images = Images(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), torch.arange(3))
    assert auto_batch_size(network("smallconv"), images, "cpu") == 256


def test_the_16_bit_types() -> None:
    assert low_precision("cpu") == torch.bfloat16
    assert low_precision("cuda:1") == torch.float16


def test_tf32_is_off_inside_and_as_before_outside() -> None:
    torch.set_float32_matmul_precision("high")
    before = torch.backends.cudnn.allow_tf32
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32 == before
    finally:
        torch.set_float32_matmul_precision("highest")
