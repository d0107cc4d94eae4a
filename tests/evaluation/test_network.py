"""The copy of a network that searches ask: it says what the network says, and the network stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparring.evaluation.network import auto_batch_size, full_precision, low_precision, optimised_copy, rows_within
from sparring.models import create


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


@pytest.mark.parametrize(
    "name", ["smallconv", "resnet18", "preactresnet18", "timm:resnet10t", "timm:vit_tiny_patch16_224"]
)
def test_it_says_what_the_network_says(name: str) -> None:
    model = network(name, None if name.startswith("timm") else 8) if "vit" not in name else _vit()
    x = torch.rand(5, 3, 16, 16)
    before = copy.deepcopy(model.state_dict())
    quick = optimised_copy(model, x[:2])
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


@pytest.mark.parametrize(("name", "left"), [("smallconv", 0), ("resnet18", 0)])
def test_batchnorm_is_folded_where_a_convolution_comes_before_it(name: str, left: int) -> None:
    quick = optimised_copy(network(name), torch.rand(2, 3, 16, 16))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in quick.modules()) == left


class Stubborn(nn.Module):
    """Branches on its images, so that its graph cannot be traced; its parts can."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0.9:
            x = x - 0.1
        return self.head(self.body(x))


def test_parts_of_a_network_that_cannot_be_traced_are_folded() -> None:
    model = Stubborn().eval()
    model.body[1].running_mean.normal_()
    x = torch.rand(4, 3, 8, 8)
    quick = optimised_copy(model, x)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    torch.testing.assert_close(quick(x), model(x), rtol=1e-4, atol=1e-5)


class Counting(nn.Module):
    """Its trace would write the batch size in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.norm(self.conv(x)).mean((2, 3))
        return features + torch.arange(int(x.shape[0]), dtype=x.dtype).sum()


class Unlike(nn.Module):
    """Refuses to be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def __deepcopy__(self, memory):
        raise TypeError("cannot pickle a lock")

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def test_what_cannot_be_copied_or_folded_is_used_as_it_is() -> None:
    model = Unlike()
    assert optimised_copy(model, torch.rand(2, 3, 2, 2)) is model
    counting = Counting().eval()
    x = torch.rand(3, 3, 6, 6)
    torch.testing.assert_close(optimised_copy(counting, x[:2])(x), counting(x))


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
