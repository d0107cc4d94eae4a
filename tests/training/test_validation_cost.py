"""What it costs to evaluate every epoch, beside what the epoch costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparring.attacks import attackable
from sparring.data import Data, load
from sparring.evaluation import CLEAN, Evaluator
from sparring.threat import Threat
from sparring.training import Selection
from sparring.training.cost import Operations, forward_operations
from tests.methods.harness import digits, network

FIFTIETH = 1 / 50  # of the training images are held out, unless a configuration says otherwise


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def units(model: nn.Module, threat: Threat, count: int = 20) -> float:
    """Forward passes an image that the default validation takes, of a network that is right about every clean image."""
    images = digits(count)
    with torch.no_grad():
        images = replace(images, labels=model(images.pixels / 255).argmax(1))
    with attackable(model, "eval"), Operations() as counted:
        Evaluator(model, images, threat, batch_size=count).run([CLEAN, Selection().attack])
    return counted.total / count / forward_operations(model, (1, 8, 8))


def test_evaluating_a_network_that_withstands_everything_costs_at_most_a_tenth_of_an_epoch() -> None:
    """Nobody leaves: ten steps, the clean images, and what they end at. The shortest adversarial step costs 5."""
    taken = units(network(name="resnet18", width=8).eval(), Threat(eps=1e-7))
    assert taken == pytest.approx(22, abs=0.5)
    assert taken * FIFTIETH / (1 - FIFTIETH) < 0.1 * 5


def test_images_that_are_fooled_cost_no_more() -> None:
    """Evaluating a network that withstands nothing takes less than a tenth of standard training, whose step costs 3."""
    taken = units(linear(), Threat(eps=0.9))
    assert taken < 7
    assert taken * FIFTIETH / (1 - FIFTIETH) < 0.1 * 3


def test_a_fiftieth_is_held_out(cifar10) -> None:
    splits = load(Data(name="cifar10", path=str(cifar10), limit=10_000))
    assert len(splits.validation) == 200
