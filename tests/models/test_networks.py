"""Shapes, parameter counts and the mathematics of the networks, small or on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from sparring.models import create
from sparring.models.preactresnet import PreActBlock, TalkPreActResNet18
from sparring.models.resnet import BasicBlock
from sparring.models.wideresnet import WideBlock


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def wide_parameters(depth: int, widen: int, classes: int) -> int:
    """Zagoruyko and Komodakis' tables in closed form: 3x3 stem, three stages of n blocks, a BatchNorm and the head."""
    n, total, inputs = (depth - 2) // 6, 27 * 16, 16  # right for 6n + 4 and for 6n + 2
    for outputs in (16 * widen, 32 * widen, 64 * widen):
        total += 10 * inputs * outputs + 9 * outputs**2 + 2 * (inputs + outputs)  # 3x3 and 1x1 from the inputs, 3x3
        total += (n - 1) * (18 * outputs**2 + 4 * outputs)  # two 3x3, two BatchNorms
        inputs = outputs
    return total + 2 * inputs + (inputs + 1) * classes


@pytest.mark.parametrize(("depth", "widen"), [(28, 10), (32, 10), (34, 10), (34, 20), (70, 16)])
@pytest.mark.parametrize("classes", [10, 100])
def test_wideresnets_have_the_parameters_of_the_closed_form(depth: int, widen: int, classes: int) -> None:
    with torch.device("meta"):
        assert parameters(create(f"wideresnet-{depth}-{widen}", classes)) == wide_parameters(depth, widen, classes)


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        # Stem 1,728; 3x3 and 1x1 convolutions of the stages 147,456 + 524,288 + 2,097,152 + 8,388,608; BatchNorms
        # 128 + 512 + 1,280 + 2,560 + 5,120; head 5,130.
        ("resnet18", 10, 11_173_962),
        # The same convolutions and head; BatchNorms 512 + 896 + 1,792 + 3,584, and the final one 1,024, which Rice et al.
        # (ICML 2020) have and the 11,171,146 parameters of Kuang Liu's repository have not.
        ("preactresnet18", 10, 11_171_146 + 1_024),
        (
            "timm:resnet50",
            10,
            25_557_032 - 2_049_000 + 20_490,
        ),  # ImageNet's, with 2048 x 10 + 10 for 2048 x 1000 + 1000
        # Without the final BatchNorm (1,024) and with a head of 2048 x 200 + 200 instead of 512 x 10 + 10.
        ("preactresnet18-talk", 200, 11_172_170 - 1_024 - 5_130 + 409_800),
        ("wideresnet-28-10", 10, 36_479_194),
        ("wrn-34-10", 10, 46_160_474),
        ("wideresnet-32-10", 10, 46_160_474),
        ("wideresnet-34-20", 10, 184_531_674),
        ("wideresnet-70-16", 10, 266_796_506),
        ("smallconv", 10, 104_042),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, classes: int, count: int) -> None:
    with torch.device("meta"):
        assert parameters(create(name, classes, size=64)) == count


@pytest.mark.parametrize(
    ("name", "classes", "channels", "size", "width"),
    [
        ("resnet18", 2, 1, 8, 4),
        ("resnet18", 10, 3, 32, 4),
        ("resnet18", 1000, 3, (30, 41), 4),
        ("preactresnet18", 10, 3, 8, 4),
        ("preactresnet18", 43, 3, 32, 4),
        ("preactresnet18", 200, 3, 64, 4),
        ("preactresnet18-talk", 10, 3, 32, 4),
        ("preactresnet18-talk", 200, 3, 64, 4),
        ("preactresnet18-talk", 200, 3, (33, 64), 4),
        ("preactresnet18-talk", 200, 1, (57, 90), 4),
        ("wideresnet-10-1", 10, 3, 4, None),
        ("wrn-16-1", 100, 1, (28, 20), None),
        ("smallconv", 10, 1, 8, None),
        ("smallconv", 10, 5, (64, 9), 7),
    ],
)
def test_logits_have_one_column_a_class(
    name: str, classes: int, channels: int, size: int | tuple[int, int], width: int | None
) -> None:
    model = create(name, classes, channels=channels, size=size, width=width)
    height, across = (size, size) if isinstance(size, int) else size
    logits = model(torch.rand(2, channels, height, across))
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["resnet18", "preactresnet18", "preactresnet18-talk", "wideresnet-28-10"])
def test_full_networks_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        assert create(name, 200, size=64)(torch.empty(2, 3, 64, 64)).shape == (2, 200)


@pytest.mark.parametrize(("size", "features"), [(64, 2048), (32, 512), ((64, 32), 1024), (56, 512), (57, 2048)])
def test_the_talk_network_pools_windows_of_four(size: int | tuple[int, int], features: int) -> None:
    with torch.device("meta"):
        network = create("preactresnet18-talk", 200, size=size).network
    assert isinstance(network, TalkPreActResNet18)
    assert network.linear.in_features == features


def test_the_talk_network_has_no_final_batchnorm_or_relu() -> None:
    network = create("preactresnet18-talk", 10, size=32, width=2).network
    assert isinstance(network, TalkPreActResNet18)
    assert "bn" not in dict(network.named_children())
    last = -torch.ones(1, 16, 4, 4)
    assert torch.equal(network.features(last), -torch.ones(1, 16))


def test_resnet18_is_torchvisions_with_a_small_stem() -> None:
    oracle = torchvision.models.resnet18(num_classes=10)
    oracle.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    oracle.maxpool = nn.Identity()
    ours = create("resnet18", 10).network
    ours(torch.rand(4, 3, 16, 16))  # moves the running statistics away from zero and one
    state = ours.state_dict().items()
    oracle.load_state_dict({k.replace("shortcut", "downsample").replace("linear", "fc"): v for k, v in state})
    x = torch.rand(2, 3, 32, 24)
    torch.testing.assert_close(ours.eval()(x), oracle.eval()(x))


RELEASED: dict[str, dict[str, Any]] = {
    "preactresnet18": {"bn_of_shortcut": True, "last_bn": True},
    "preactresnet18-wong": {"bn_of_shortcut": False, "last_bn": True},
    "preactresnet18-gradalign": {"bn_of_shortcut": False, "last_bn": False},
    "preactresnet18-talk": {"bn_of_shortcut": True, "last_bn": False},  # at 32x32 pixels FGSM-CKPT's
}


def preactresnet(state: dict[str, Tensor], x: Tensor, *, bn_of_shortcut: bool, last_bn: bool) -> Tensor:
    """The released networks, written down once more without modules: logits of 32x32 images."""

    def active(name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu(F.batch_norm(x, mean, variance, weight, bias))

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage, block in product((1, 2, 3, 4), (0, 1)):
        name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
        inner = active(f"{name}.bn1", x)
        after = F.conv2d(inner, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        after = F.conv2d(active(f"{name}.bn2", after), state[f"{name}.conv2.weight"], padding=1)
        if stride == 2:
            x = F.conv2d(inner if bn_of_shortcut else x, state[f"{name}.shortcut.0.weight"], stride=2)
        x = x + after
    x = active("bn", x) if last_bn else x
    x = F.avg_pool2d(x, 4).flatten(1)
    return F.linear(x, state["linear.weight"], state["linear.bias"])


def moved(name: str, width: int) -> nn.Module:
    """A network in evaluation mode and float64, none of whose weights and statistics is at its default."""
    torch.manual_seed(0)
    network = create(name, 10, width=width).network.double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    network(torch.randn(16, 3, 32, 32, dtype=torch.float64))
    return network.eval()


@pytest.mark.parametrize("name", RELEASED)
def test_the_preactresnets_are_those_that_were_released(name: str) -> None:
    network, x = moved(name, 3), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    expected = {
        other: preactresnet(network.state_dict(), x, **facts)
        for other, facts in RELEASED.items()
        if facts["last_bn"] == RELEASED[name]["last_bn"]
    }
    torch.testing.assert_close(network(x), expected.pop(name), rtol=1e-12, atol=1e-12)
    for logits in expected.values():  # the same names and shapes, and another network
        assert (logits - network(x)).abs().max() > 0.1 * logits.std()


def test_the_resnet18_of_gat_has_a_relu_before_the_sum() -> None:
    network, x = moved("resnet18-gat", 3), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    logits = network(x)
    standard = create("resnet18", 10, width=3).network.double().eval()
    standard.load_state_dict(network.state_dict())
    assert (standard(x) - logits).abs().max() > 0.1 * logits.std()
    for block in standard.modules():
        if isinstance(block, BasicBlock):
            block.bn2.register_forward_hook(lambda _module, _inputs, output: F.relu(output))
    torch.testing.assert_close(standard(x), logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "last", "head", "final"),
    [
        ("preactresnet18", "bn", "linear", F.relu),
        ("preactresnet18-wong", "bn", "linear", F.relu),
        ("preactresnet18-gradalign", "layer4", "linear", nn.Identity()),
        ("preactresnet18-talk", "layer4", "linear", nn.Identity()),
        ("wideresnet-10-1", "bn1", "fc", F.relu),
        ("smallconv", "stage4", "linear", F.relu),
    ],
)
def test_the_head_reads_the_mean_of_the_last_map(
    name: str, last: str, head: str, final: Callable[[Tensor], Tensor]
) -> None:
    network = create(name, 10, width=None if name.startswith("wide") else 4).network
    maps, features = [], []
    network.get_submodule(last).register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    network.get_submodule(head).register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0]))
    network(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(features[0], final(maps[0]).mean((2, 3)))


@pytest.mark.parametrize("name", ["resnet18", "preactresnet18", "wideresnet-28-10", "smallconv"])
def test_only_plain_batchnorm(name: str) -> None:
    with torch.device("meta"):
        network = create(name, 10).network
    assert {type(module) for module in network.modules() if "Norm" in type(module).__name__} == {nn.BatchNorm2d}


@pytest.mark.parametrize("block", [PreActBlock(4, 4, 1), WideBlock(4, 4, 1)])
def test_a_preactivation_block_without_residual_is_the_identity(block: PreActBlock | WideBlock) -> None:
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("block", [PreActBlock(2, 2, 2), WideBlock(2, 2, 2)])
def test_a_projection_reads_the_active_input(block: PreActBlock | WideBlock) -> None:
    nn.init.zeros_(block.conv2.weight)
    negative = -torch.ones(1, 2, 4, 4)  # in evaluation mode the fresh BatchNorm is almost the identity: ReLU kills it
    assert torch.equal(block.eval()(negative), torch.zeros(1, 2, 2, 2))


def test_the_wideresnet_32_of_madry_is_zagoruykos_34() -> None:
    with torch.device("meta"):
        theirs, ours = create("wideresnet-32-10", 10).state_dict(), create("wideresnet-34-10", 10).state_dict()
    assert [(name, tensor.shape) for name, tensor in theirs.items()] == [(n, t.shape) for n, t in ours.items()]


def test_wideresnet_convolutions_are_he_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    network = create("wideresnet-10-4", 10).network
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    assert not network.get_parameter("fc.bias").any()


def test_every_parameter_and_the_input_get_a_gradient() -> None:
    for name in (*RELEASED, "resnet18", "resnet18-gat", "wideresnet-10-1", "smallconv"):
        model = create(name, 3, width=None if name.startswith("wide") else 4)
        x = torch.rand(4, 3, 32, 32, requires_grad=True)
        model(x).logsumexp(1).sum().backward()
        assert x.grad is not None
        assert (x.grad.flatten(1).norm(dim=1) > 0).all(), name
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, (name, key)


def test_evaluation_does_not_depend_on_the_rest_of_the_batch_and_training_does() -> None:
    model = create("resnet18", 10, width=4)
    x, others = torch.rand(1, 3, 16, 16), torch.rand(3, 3, 16, 16)
    assert not torch.allclose(model(torch.cat([x, others]))[:1], model(torch.cat([x, x, x, x]))[:1], atol=1e-3)
    model.eval()
    torch.testing.assert_close(model(torch.cat([x, others]))[:1], model(x))
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", ["resnet18", "preactresnet18-talk"])
def test_channels_last_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = create(name, 10, size=64, width=16).eval()
    x = torch.rand(2, 3, 64, 64)
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)
    assert not model.get_parameter("network.layer4.0.conv1.weight").is_contiguous()
    found = model(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
