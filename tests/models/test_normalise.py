"""Normalisation inside is normalisation outside, and impossible statistics are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.errors import BadInput
from sparring.models import Normalised, create

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def test_inside_equals_outside() -> None:
    model = create("smallconv", 10, mean=MEAN, std=STD).eval()
    x = torch.rand(2, 3, 16, 16)
    outside = torch.stack([(x[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    torch.testing.assert_close(model(x), model.network(outside))
    assert not torch.allclose(model(x), model.network(x), atol=1e-3)


def test_none_is_the_identity_bit_for_bit() -> None:
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(Normalised(nn.Flatten(), 3)(x), x.flatten(1))


def test_statistics_are_saved_buffers_of_shape_1c11() -> None:
    model = create("smallconv", 10, channels=1, size=8, mean=[0.25])
    state = model.state_dict()
    assert torch.equal(state["mean"], torch.full((1, 1, 1, 1), 0.25))
    assert torch.equal(state["std"], torch.ones(1, 1, 1, 1))
    assert not {"mean", "std"} & {key for key, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ((0.5,), None, "length 1, but images have 3"),
        (None, (0.5, 0.5), "length 2, but images have 3"),
        ((125.3, 123.0, 113.9), None, "125.3"),
        ((float("nan"), 0.5, 0.5), None, "nan"),
        (None, (-0.2, 0.2, 0.2), "-0.2"),
        (None, (0.2, 0.0, 0.2), "zero"),
    ],
)
def test_impossible_statistics_are_refused(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        create("smallconv", 10, mean=mean, std=std)


def test_bytes_are_refused() -> None:
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(BadInput, match="uint8"):
        create("smallconv", 10)(images)


@pytest.mark.parametrize(("channels", "given"), [(3, 1), (1, 3), (3, 4)])
def test_another_number_of_channels_is_refused_and_not_broadcast(channels: int, given: int) -> None:
    model = Normalised(nn.Flatten(), channels)
    with pytest.raises(BadInput, match=rf"images of {channels} channel\(s\), not of {given}"):
        model(torch.rand(2, given, 8, 8))


def test_the_checks_leave_one_graph_to_the_compiler() -> None:
    model = torch.compile(Normalised(nn.Flatten(), 3), backend="eager", fullgraph=True)
    assert model(torch.ones(2, 3, 8, 8)).shape == (2, 192)
