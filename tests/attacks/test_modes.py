"""The network as an attack sees it, and how it is put back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD, BatchNormMode, attackable, frozen_statistics
from sparring.threat import Threat

every_mode = pytest.mark.parametrize("bn", ["eval", "train", "train_frozen_stats"])
BOTH_NORMS = 2  # BatchNorm layers in the network below


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(12, 4),
        nn.BatchNorm1d(4, momentum=None),
    ).double()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model


def images(count: int = 8) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def look(model: nn.Module) -> list[object]:
    return [
        [module.training for module in model.modules()],
        [getattr(module, "track_running_stats", None) for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
    ]


def statistics(model: nn.Module) -> list[list[float]]:
    return [buffer.flatten().tolist() for buffer in model.buffers()]


def counts(model: nn.Module) -> list[int]:
    return [int(module.num_batches_tracked) for module in model.modules() if hasattr(module, "num_batches_tracked")]


@every_mode
def test_every_mode_and_gradient_flag_is_put_back(bn: BatchNormMode) -> None:
    """Also a frozen parameter, and a layer in another mode than the rest."""
    model = network().train()
    model[0].weight.requires_grad_(False)
    model[1].eval()
    before = look(model)
    with attackable(model, bn):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert all(module.training == (bn != "eval") for module in model.modules())
    assert look(model) == before


@every_mode
@pytest.mark.parametrize("training", [False, True])
def test_a_failing_attack_puts_the_network_back_too(bn: BatchNormMode, training: bool) -> None:
    model = network().train(training)
    before = look(model)
    with pytest.raises(RuntimeError, match="broken"), attackable(model, bn):
        raise RuntimeError("broken")
    assert look(model) == before


@every_mode
def test_an_attack_puts_dropout_and_batch_norm_back(bn: BatchNormMode) -> None:
    model = network()
    model[2].train()
    model[1].eval()
    before = look(model)
    PGD(steps=2, bn=bn)(model, images(), torch.zeros(8, dtype=torch.int64), Threat("Linf", 0.1))
    assert look(model) == before


def test_eval_uses_the_running_statistics_and_leaves_them() -> None:
    model = network()
    before, expected = statistics(model), model.eval()(images())
    model.train()
    with attackable(model, "eval"):
        torch.testing.assert_close(model(images()), expected, rtol=0, atol=0)
    assert statistics(model) == before


def test_train_uses_the_batch_s_statistics_and_moves_the_running_ones() -> None:
    model = network().eval()
    before = statistics(model)
    with attackable(model, "train"):
        logits = model(images())
    assert_normalised(logits)
    assert all(now != then for now, then in zip(statistics(model), before, strict=True))
    assert counts(model) == [1] * BOTH_NORMS


def test_train_moves_the_running_statistics_once_a_step() -> None:
    model = network().eval()
    PGD(steps=3, bn="train").run(model, images(), lambda logits: logits[:, 0], Threat("Linf", 0.1))
    assert counts(model) == [3] * BOTH_NORMS


@pytest.mark.parametrize("training", [False, True])
def test_train_frozen_stats_uses_the_batch_s_statistics_and_moves_nothing(training: bool) -> None:
    model = network().train(training)
    before = statistics(model)
    with attackable(model, "train_frozen_stats"):
        logits = model(images())
    assert_normalised(logits)
    assert statistics(model) == before
    assert counts(model) == [0] * BOTH_NORMS
    model.train()(images())
    assert counts(model) == [1] * BOTH_NORMS  # and they move again afterwards


def test_frozen_statistics_nest_and_spare_layers_that_track_nothing() -> None:
    model = network().train()
    model[1].track_running_stats = False
    before, modes = statistics(model), look(model)
    with frozen_statistics(model):
        with frozen_statistics(model):
            model(images())
        model(images())
    assert statistics(model) == before
    assert look(model) == modes


def assert_normalised(logits: Tensor) -> None:
    """The last layer is a BatchNorm with weight 1 and bias 0: its outputs have the batch's mean 0 and variance 1."""
    torch.testing.assert_close(logits.mean(0), torch.zeros(4).double(), rtol=0, atol=1e-12)
    assert logits.var(0, unbiased=False).detach().tolist() == pytest.approx([1.0] * 4, abs=0.01)
