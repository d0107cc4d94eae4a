"""What tests of attacks share: toy networks, their images, steps of a search, what all must keep, and trained networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sparring.attacks import PGD, Attack, CountedModel, Search, SearchState
from sparring.data import Data, Images, load
from sparring.losses import cross_entropy
from sparring.randomness import SampleStreams
from sparring.threat import Threat
from tests.syncs import NoHostSync

SHAPE = (2, 3, 4)  # of an image
LINF, L2 = Threat("Linf", "1/10"), Threat("L2", "1/10")
both_norms = pytest.mark.parametrize("threat", [LINF, L2], ids=["Linf", "L2"])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def streams(count: int, seed: int = 0) -> SampleStreams:
    return SampleStreams(seed, torch.arange(count))


def pictures(count: int, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Images (count, C, H, W) in float64, the same ones every time."""
    return low + (high - low) * torch.rand(count, *shape, generator=seeded(4), dtype=torch.float64)


# Networks --------------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """Logits W x + b: the best perturbation is known. The biases see to it that class `true` wins and `rival` is next."""

    def __init__(self, biases: tuple[float, ...], true: int, rival: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(biases), *SHAPE, generator=seeded(1), dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(biases, dtype=torch.float64))
        self.true, self.rival = true, rival

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.weight).sum((2, 3, 4)) + self.bias

    def slope(self, rival: int | Tensor | None = None) -> Tensor:
        """w_rival - w_true: (C, H, W), or (B, C, H, W) for rivals (B,)."""
        return (self.weight[self.rival if rival is None else rival] - self.weight[self.true]).detach()

    def direction(self, threat: Threat, rival: int | Tensor | None = None) -> Tensor:
        """What raises z_rival - z_true the most, at norm 1."""
        slope = self.slope(rival)
        return slope.sign() if threat.norm == "Linf" else slope / slope.square().sum((-3, -2, -1), keepdim=True).sqrt()


class Curved(nn.Module):
    """Smooth and far from linear, the more so the greater its scale; knows float32 and float64."""

    def __init__(self, classes: int = 4, shape: tuple[int, ...] = SHAPE, scale: float = 2.0) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(math.prod(shape), 16, generator=seeded(2), dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(16, classes, generator=seeded(3), dtype=torch.float64))
        self.scale = scale / math.sqrt(math.prod(shape) / math.prod(SHAPE))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.scale * x.flatten(1) @ self.first.to(x.dtype)) @ self.second.to(x.dtype)


class Window(nn.Module):
    """One pixel of class 0; wrong only where it lies in (low, high), although z_1 - z_0 grows everywhere."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        pixel = x[:, 0, 0, 0]
        outside = ((pixel < self.low) | (pixel > self.high)).to(x.dtype)  # without a gradient
        return torch.stack([10 * outside - pixel, torch.zeros_like(pixel)], 1)


class Around(nn.Module):
    """A network with something done before and after."""

    def __init__(self, network: nn.Module, before: Callable = lambda x: x, after: Callable = lambda z: z) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.network(self.before(x)))


# Searches --------------------------------------------------------------------------------------------------------------


def opened(search: Search, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, attempt: int = 0) -> SearchState:
    """An attempt at every image, before its first step, as the pool begins it."""
    state = search.init(x, y, model(x).detach(), attempt, streams(len(x)).at(attempt), threat)
    assert type(state) is search.state_type
    return state


def after(search: Search, state: SearchState, model: nn.Module, threat: Threat) -> SearchState:
    """The state after a step, as the pool takes it."""
    moved = search.step(CountedModel(model), state, threat)
    assert type(moved) is type(state)
    return replace(moved, step=state.step + 1)


def assert_a_step_is_quiet(search: Search, state: SearchState, model: nn.Module, threat: Threat) -> CountedModel:
    """Assert that a step reads no tensor on the host and changes none; return the model that counted it."""
    before = {name: value.clone() for name, value in state.tensors().items()}
    counted = CountedModel(model)
    with NoHostSync():
        moved = search.step(counted, state, threat).tensors()
    for name, value in before.items():
        assert torch.equal(getattr(state, name), value)
        assert moved[name].dtype == value.dtype
        assert moved[name].shape == value.shape
    return counted


def assert_rows_do_not_meet(search: Search, state: SearchState, model: nn.Module, threat: Threat) -> None:
    """A step of all rows together is that of each alone."""
    together = search.step(CountedModel(model), state, threat).tensors()
    alone = [search.step(CountedModel(model), state.rows(row), threat) for row in torch.arange(len(state.y)).split(1)]
    for name, value in type(state).joined(alone).tensors().items():
        torch.testing.assert_close(value, together[name], rtol=0, atol=1e-12)


def partly_wrong(model: nn.Module, x: Tensor) -> Tensor:
    """Labels (B,): what the network says, but for every fifth image, which is so wrong from the start."""
    logits = model(x)
    y = logits.argmax(1)
    y[::5] = (y[::5] + 1) % logits.shape[1]
    return y


def assert_batches_do_not_matter(attack: Attack, model: nn.Module, x: Tensor, threat: Threat, atol: float) -> None:
    """What is found for an image depends on the seed and its own index, not on its batch; who is wrong anyway is left."""
    y, every, index = partly_wrong(model, x), torch.arange(len(x)), torch.arange(1000, 1000 + len(x))

    def attacked(rows: Tensor, seed: int = 3) -> Tensor:
        return attack(model, x[rows], y[rows], threat, generator=SampleStreams(seed, index[rows]))

    whole = attacked(every)
    for size in (1, 7):
        parts = torch.cat([attacked(rows) for rows in every.split(size)])
        torch.testing.assert_close(parts, whole, rtol=0, atol=atol)
    order = torch.randperm(len(x), generator=seeded(12))
    torch.testing.assert_close(attacked(order), whole[order], rtol=0, atol=atol)
    assert (attacked(every, seed=4) - whole).abs().max() > 1e-5
    wrong = model(x).argmax(1) != y
    assert torch.equal(whole[wrong], x[wrong])


# Digits ----------------------------------------------------------------------------------------------------------------


@cache
def digits() -> tuple[Images, Images]:
    """For training, and for tests."""
    splits = load(Data(validation=0))
    return splits.train, splits.test


def trained(network: nn.Module, images: Images, epochs: int, attack: PGD | None = None) -> nn.Module:
    """The network after a few epochs, on adversarial images of LINF where an attack is given, in evaluation mode."""
    torch.manual_seed(0)
    x, y = images.pixels / 255, images.labels
    optimizer = torch.optim.Adam(network.train().parameters())
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - epoch / epochs)
        for rows in torch.randperm(len(y)).split(128):
            batch, labels = x[rows], y[rows]
            if attack is not None:
                batch = batch + attack.run(network, batch, lambda z, y=labels: cross_entropy(z, y), LINF)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch), labels).backward()
            optimizer.step()
    optimizer.zero_grad()
    return network.eval()


@cache
def noisy_digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A network trained on noisy digits, and the 797 digits (797, 1, 8, 8) that it has not seen, with their labels."""
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(150):
            rows = torch.randint(0, 1000, (128,))
            noisy = x[rows] + torch.empty(128, 1, 8, 8).uniform_(-0.1, 0.1)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(noisy), y[rows]).backward()
            optimizer.step()
    return model.requires_grad_(False), x[1000:], y[1000:]
