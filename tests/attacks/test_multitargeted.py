"""MultiTargeted against PyTorch's Adam, closed forms and PGD."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sparring.attacks import PGD, Attack
from sparring.attacks.multitargeted import MultiTargeted, MultiTargetedLanes
from sparring.attacks.search import Probe
from sparring.errors import BadInput
from sparring.losses import targeted_margin
from sparring.randomness import SampleStreams
from sparring.threat import Threat
from tests.syncs import NoHostSync

SHAPE = (2, 3, 4)
LINF, L2 = Threat("Linf", "1/10"), Threat("L2", "1/10")
both_norms = pytest.mark.parametrize("threat", [LINF, L2], ids=["Linf", "L2"])


class Linear(nn.Module):
    """Five classes; class 2 wins by far everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, *SHAPE, generator=_generator(1), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        far = torch.tensor([0.0, -1.0, 50.0, -2.0, -3.0], dtype=x.dtype)
        return (x[:, None] * self.weight).sum((2, 3, 4)) + far

    def worst(self, target: Tensor, threat: Threat) -> Tensor:
        """The perturbations (B, C, H, W) that raise z_target - z_2 the most."""
        difference = (self.weight[target] - self.weight[2]).detach()
        if threat.norm == "Linf":
            return threat.eps * difference.sign()
        return threat.eps * difference / difference.flatten(1).norm(dim=1)[:, None, None, None]


class Curved(nn.Module):
    """Smooth and far from linear; knows float32 and float64."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(24, 16, generator=_generator(2), dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(16, classes, generator=_generator(3), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(2 * x.flatten(1) @ self.first.to(x.dtype)) @ self.second.to(x.dtype)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(count, *SHAPE, generator=_generator(4), dtype=torch.float64)


def opened(search: MultiTargeted, model: nn.Module, x: Tensor, y: Tensor, attempt: int, threat: Threat):
    lanes = search.open(x, y, model(x).detach(), attempt, SampleStreams(0, torch.arange(len(x)), attempt), threat)
    assert isinstance(lanes, MultiTargetedLanes)
    return lanes


def after(search: MultiTargeted, lanes: MultiTargetedLanes, model: nn.Module, threat: Threat) -> MultiTargetedLanes:
    """A turn as the pool takes it."""
    moved = search.advance(Probe(model), lanes, threat)
    assert isinstance(moved, MultiTargetedLanes)
    return replace(moved, step=lanes.step + 1)


def test_attempts_take_turns_with_the_wrong_classes_from_the_likeliest_on() -> None:
    model, x = Curved(6), pictures(20)
    order = model(x).argsort(1, descending=True)
    for place in (0, 2, 5):  # also where the network is wrong to begin with
        y = order[:, place]
        wrong = torch.cat([order[:, :place], order[:, place + 1 :]], 1)
        for targets, cycle in ((9, [0, 1, 2, 3, 4, 0, 1]), (3, [0, 1, 2, 0, 1, 2, 0]), (1, [0] * 7)):
            search = MultiTargeted(targets=targets)
            for attempt, rank in enumerate(cycle):
                assert torch.equal(opened(search, model, x, y, attempt, LINF).target, wrong[:, rank])


def test_restarts_are_counted_over_all_targets() -> None:
    assert MultiTargeted().attempts(10) == MultiTargeted().attempts(3) == 10
    assert MultiTargeted(restarts=4, targets=2).attempts(10) == 4
    assert MultiTargeted(steps=30).length == 30


@both_norms
def test_starts_are_spread_over_the_ball_anew_for_each_restart(threat: Threat) -> None:
    search, x = MultiTargeted(), pictures(30, 0.3, 0.7)
    starts = [opened(search, Linear(), x, torch.full((30,), 2), attempt, threat).point - x for attempt in (0, 1)]
    for start in starts:
        assert threat.size(start).max() <= threat.eps + 1e-12
        assert threat.size(start).min() > 0.5 * threat.eps
    assert (starts[0] - starts[1]).abs().amax((1, 2, 3)).min() > 0.01


@both_norms
@pytest.mark.parametrize("steps", [7, 40])
def test_steps_are_those_of_pytorch_s_adam(threat: Threat, steps: int) -> None:
    """Image by image; in L2 the gradients' squares are those of an image's mean."""
    search, model, x = MultiTargeted(steps=steps), Curved(), pictures(5)
    y = model(x).argmax(1)
    lanes = opened(search, model, x, y, 1, threat)
    points = [lanes.point[row].clone().requires_grad_() for row in range(5)]
    optimizers = [torch.optim.Adam([point], lr=1.0, betas=(0.9, 0.999), eps=1e-9, maximize=True) for point in points]
    second = [torch.zeros(()).double() for _ in points]
    for step in range(steps):
        rate = 0.1 if step < steps / 2 else 0.01 if step < 3 * steps / 4 else 0.001
        lanes = after(search, lanes, model, threat)
        for row, (point, optimizer) in enumerate(zip(points, optimizers, strict=True)):
            before = point.detach().clone()
            logits = model(point[None])
            optimizer.zero_grad()
            (logits[0, lanes.target[row]] - logits[0, y[row]]).backward()
            square = (point.grad**2).mean()
            optimizer.step()
            change = point.detach() - before
            if threat.norm == "L2":  # PyTorch's own second mean, pixel by pixel, is replaced; its first is of a descent
                second[row] = 0.999 * second[row] + 0.001 * square
                mean = -optimizer.state[point]["exp_avg"] / (1 - 0.9 ** (step + 1))
                change = mean / ((second[row] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-9)
            delta = before - x[row] + rate * change
            if threat.norm == "Linf":
                delta = delta.clamp(-0.1, 0.1)
            elif delta.norm() > 0.1:
                delta = 0.1 * delta / delta.norm()
            point.data = (x[row] + delta).clamp(0, 1)
        torch.testing.assert_close(lanes.point, torch.stack(points).detach(), rtol=0, atol=1e-9)


def test_the_rate_falls_at_half_and_at_three_quarters_of_the_steps() -> None:
    """Seen where the gradient is constant: Adam's step is then the rate itself."""
    for steps, expected in ((200, [0.1] * 100 + [0.01] * 50 + [0.001] * 50), (5, [0.1, 0.1, 0.1, 0.01, 0.001])):
        search, model, threat = MultiTargeted(steps=steps), Linear(), Threat("Linf", "0.4")
        x = pictures(1, 0.45, 0.55).expand(steps, *SHAPE)
        lanes = opened(search, model, x, torch.full((steps,), 2), 0, threat)
        gradient = (model.weight[lanes.target] - model.weight[2]).detach()
        # Moments as they are after so many steps with this gradient.
        taken = torch.arange(steps)
        decayed = [1 - decay ** taken.double().view(-1, 1, 1, 1) for decay in (0.9, 0.999)]
        lanes = replace(lanes, point=x, step=taken, mean=decayed[0] * gradient, square=decayed[1] * gradient**2)
        moved = search.advance(Probe(model), lanes, threat).point - x
        sizes = torch.tensor(expected, dtype=torch.float64).view(-1, 1, 1, 1)
        torch.testing.assert_close(moved, sizes * gradient.sign(), rtol=1e-6, atol=0)


@both_norms
def test_every_target_s_optimum_on_a_linear_network_is_reached(threat: Threat) -> None:
    search, model, x = MultiTargeted(steps=60), Linear(), pictures(8, 0.3, 0.7)
    y = torch.full((8,), 2)
    seen = set()
    for attempt in range(4):
        lanes = opened(search, model, x, y, attempt, threat)
        for _ in range(60):
            lanes = after(search, lanes, model, threat)
            assert not lanes.found.any()
        torch.testing.assert_close(lanes.point - x, model.worst(lanes.target, threat), rtol=0, atol=1e-4)
        best = targeted_margin(model(x + model.worst(lanes.target, threat)), y, lanes.target)
        torch.testing.assert_close(targeted_margin(model(lanes.point), y, lanes.target), best, rtol=0, atol=1e-6)
        seen |= set(lanes.target.tolist())
    assert seen == {0, 1, 3, 4}


class Window(nn.Module):
    """One pixel; wrong only in (0.58, 0.62), although z_1 - z_0 grows everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        pixel = x[:, 0, 0, 0]
        outside = ((pixel < 0.58) | (pixel > 0.62)).to(x.dtype)  # without a gradient
        return torch.stack([10 * outside - pixel, torch.zeros_like(pixel)], 1)


def test_an_image_that_is_wrong_at_an_earlier_iterate_counts_as_fooled() -> None:
    x, y, threat = torch.full((1, 1, 1, 1), 0.5).double(), torch.tensor([0]), Threat("Linf", 0.3)
    search = MultiTargeted(steps=4, restarts=1)
    lanes = replace(opened(search, Window(), x, y, 0, threat), point=x)
    visited = []
    for _ in range(4):
        lanes = after(search, lanes, Window(), threat)
        visited.append((round(lanes.candidate.item(), 4), lanes.found.item()))
    assert visited == [(0.5, False), (0.6, True), (0.7, False), (0.71, False)]


def test_any_wrong_class_counts_not_only_the_target() -> None:
    model, x = Curved(), pictures(60)
    order = model(x).argsort(1, descending=True)
    search = MultiTargeted(targets=2)
    lanes = replace(opened(search, model, x, order[:, 2], 1, LINF), point=x)
    assert torch.equal(lanes.target, order[:, 1])  # while the network says order[:, 0]
    assert after(search, lanes, model, LINF).found.all()
    right = replace(opened(search, model, x, order[:, 0], 1, LINF), point=x)
    assert not after(search, right, model, LINF).found.any()


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    norm=st.sampled_from(["Linf", "L2"]),
    eps=st.floats(1e-4, 0.99),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 100),
)
def test_adversarial_images_are_in_the_ball_and_in_the_box(norm, eps, dtype, seed) -> None:
    threat, model, search = Threat(norm, eps), Curved(), MultiTargeted(steps=4, restarts=4)
    x = torch.rand(6, *SHAPE, generator=_generator(seed), dtype=dtype)
    x[0], x[1] = 0, 1
    y = torch.arange(6) % 4
    for attempt in range(2):
        lanes = opened(search, model, x, y, attempt, threat)
        for _ in range(5):
            assert lanes.point.dtype == lanes.mean.dtype == lanes.square.dtype == dtype
            assert lanes.point.min() >= 0
            assert lanes.point.max() <= 1
            assert threat.size(lanes.point - x).max() <= eps + 1e-6
            lanes = after(search, lanes, model, threat)
    assert search(model, x, y, threat).dtype == dtype


@both_norms
def test_an_adversarial_image_depends_on_its_own_index_and_not_on_its_batch(threat: Threat) -> None:
    model, x = Curved(), pictures(64)
    y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % 4  # some are wrong from the start
    index, search = torch.arange(1000, 1064), MultiTargeted(steps=8, restarts=4)

    def attacked(rows: Tensor, seed: int = 3) -> Tensor:
        return search(model, x[rows], y[rows], threat, generator=SampleStreams(seed, index[rows]))

    whole = attacked(torch.arange(64))
    for size in (1, 7):
        parts = torch.cat([attacked(rows) for rows in torch.arange(64).split(size)])
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-9)
    order = torch.randperm(64, generator=_generator(12))
    torch.testing.assert_close(attacked(order), whole[order], rtol=0, atol=1e-9)
    assert (attacked(torch.arange(64), seed=4) - whole).abs().max() > 1e-5


@both_norms
def test_rows_at_different_steps_do_not_meet_and_a_turn_reads_no_tensor_and_changes_none(threat: Threat) -> None:
    model, x = Curved(), pictures(5)
    search, y = MultiTargeted(steps=10), torch.arange(5) % 4
    lanes = after(search, opened(search, model, x, y, 0, threat), model, threat)
    lanes = replace(lanes, step=torch.tensor([1, 3, 5, 8, 9]))
    before = {name: value.clone() for name, value in lanes.tensors().items()}
    probe = Probe(model)
    with NoHostSync():
        together = search.advance(probe, lanes, threat)
    assert (probe.forwards, probe.backwards) == (5, 5)
    assert all(torch.equal(value, before[name]) for name, value in lanes.tensors().items())
    for row in range(5):
        alone = search.advance(probe, lanes.rows(torch.tensor([row])), threat)
        for name, value in together.rows(torch.tensor([row])).tensors().items():
            torch.testing.assert_close(value, alone.tensors()[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("threat", [Threat("Linf", "0.12"), Threat("L2", "0.6")], ids=["Linf", "L2"])
def test_it_leaves_fewer_digits_than_pgd_20(threat: Threat) -> None:
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
    x, y = x[1000:1300], y[1000:1300]

    def left(attack: Attack) -> int:
        adversarial = attack(model, x, y, threat, generator=SampleStreams(0, torch.arange(300)))
        return int((model(adversarial).argmax(1) == y).sum())

    assert 60 < left(MultiTargeted(steps=30, restarts=9)) < left(PGD(steps=20))


def test_it_says_what_a_record_must_state() -> None:
    rate = "0.1 with Adam, a tenth of it from 1/2 of the steps on, a hundredth from 3/4 on"
    expected = {"steps": 200, "alpha": rate, "start": "uniform", "restarts": 10, "targets": 9}
    assert MultiTargeted().describe(LINF) == expected | {"objective": "targeted margin"}
    described = MultiTargeted(steps=20, restarts=3, targets=4).describe(L2)
    assert (described["steps"], described["restarts"], described["targets"]) == (20, 3, 4)


def test_settings_that_make_no_sense_are_refused() -> None:
    for name in ("step", "restart", "target"):
        with pytest.raises(BadInput, match=f"at least 1 {name}, not 0"):
            MultiTargeted(**{f"{name}s": 0})
