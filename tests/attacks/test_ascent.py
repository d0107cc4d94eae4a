"""The ascent loop against a linear network, where the best perturbation is known in closed form."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import Ascent, KeepGoing, ascend, input_gradient
from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.threat import Budget, Threat
from tests.attacks.harness import LINF, SHAPE, both_norms, pictures, seeded


class Binary(nn.Module):
    """Logits (-s, s) / 2 of s = w . x: the cross-entropy of class 1 is log(1 + exp(-s)), of class 0 log(1 + exp(s))."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(SHAPE, generator=seeded(1), dtype=torch.float64))

    def score(self, x: Tensor) -> Tensor:
        return (self.weight * x).sum((1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([-self.score(x) / 2, self.score(x) / 2], 1)

    def worst_direction(self, y: Tensor, threat: Threat) -> Tensor:
        """What lowers the score of class 1 and raises that of class 0 the most, at norm 1."""
        weight = self.weight.detach()
        unit = weight.sign() if threat.norm == "Linf" else weight / weight.norm()
        return (1 - 2 * y.double()).view(-1, 1, 1, 1) * unit

    def worst_cross_entropy(self, x: Tensor, y: Tensor, threat: Threat, radius: float | Tensor) -> Tensor:
        """log(1 + exp(-+s + radius ||w||_*)), with the dual norm."""
        dual = self.weight.abs().sum() if threat.norm == "Linf" else self.weight.norm()
        return nn.functional.softplus((1 - 2 * y) * self.score(x) + radius * dual).detach()


class Curved(nn.Module):
    """Four classes, smooth and far from linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(24, 16, generator=seeded(2), dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(16, 4, generator=seeded(3), dtype=torch.float64))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.sin(x.flatten(1) @ self.first) @ self.second


class Watched(Curved):
    """Notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.visited: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.visited.append(x.detach())
        return super().forward(x)


def inner_images(count: int) -> Tensor:
    """Images in [0.3, 0.7], where the box does not bind."""
    return pictures(count, 0.3, 0.7)


def labels(count: int, classes: int = 2) -> Tensor:
    return torch.arange(count) % classes


def climb(model, x, y, threat, budget, start=None) -> Tensor:
    start = torch.zeros_like(x) if start is None else start
    return ascend(model, x, partial(cross_entropy, y=y), threat, budget, start)


@both_norms
def test_one_step_of_the_radius_reaches_the_optimum_of_a_linear_network(threat: Threat) -> None:
    model, x, y = Binary(), inner_images(6), labels(6)
    delta = climb(model, x, y, threat, Budget(0.1, 0.1, 1))
    torch.testing.assert_close(delta, 0.1 * model.worst_direction(y, threat), rtol=0, atol=1e-15)
    torch.testing.assert_close(
        cross_entropy(model(x + delta), y), model.worst_cross_entropy(x, y, threat, 0.1), rtol=0, atol=1e-12
    )


@both_norms
def test_every_sample_has_its_own_radius_step_size_and_number_of_steps(threat: Threat) -> None:
    """k steps of alpha along a straight line end at min(k alpha, eps)."""
    model, x, y = Binary(), inner_images(6), labels(6)
    eps = torch.tensor([0.05, 0.10, 0.15, 0.20, 0.02, 0.10]).double()
    alpha = torch.tensor([0.01, 0.04, 0.02, 0.05, 0.05, 0.03]).double()
    steps = torch.tensor([3, 5, 4, 1, 2, 0])
    delta = climb(model, x, y, threat, Budget(eps, alpha, steps, rounds=5))
    reached = torch.minimum(steps * alpha, eps)
    assert reached.tolist() == pytest.approx([0.03, 0.10, 0.08, 0.05, 0.02, 0.0])
    torch.testing.assert_close(delta, reached.view(-1, 1, 1, 1) * model.worst_direction(y, threat), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        cross_entropy(model(x + delta), y), model.worst_cross_entropy(x, y, threat, reached), rtol=0, atol=1e-12
    )


def test_where_the_box_binds_each_pixel_goes_as_far_as_it_can() -> None:
    model, y = Binary(), labels(5)
    x = torch.rand(5, *SHAPE, generator=seeded(5), dtype=torch.float64)
    x[0], x[1] = 0, 1
    best = (x + 0.1 * model.worst_direction(y, LINF)).clamp(0, 1)
    assert (best == 0).any()
    assert (best == 1).any()
    for alpha, steps in ((0.1, 1), (0.03, 4), (0.5, 2)):
        delta = climb(model, x, y, LINF, Budget(0.1, alpha, steps))
        torch.testing.assert_close(x + delta, best, rtol=0, atol=1e-15)


@both_norms
def test_a_start_outside_the_ball_is_projected_by_the_first_step(threat: Threat) -> None:
    model, x, y = Binary(), inner_images(4), labels(4)
    delta = climb(model, x, y, threat, Budget(0.1, 0.01, 1), start=torch.full_like(x, 0.25))
    assert (threat.size(delta) <= 0.1 + 1e-15).all()


@both_norms
def test_a_sample_with_k_steps_ends_where_it_ends_alone_with_k_steps(threat: Threat) -> None:
    model, x, y = Curved(), inner_images(5), labels(5, 4)
    start = threat.project(0.2 * torch.rand(x.shape, generator=seeded(6), dtype=x.dtype) - 0.1)
    steps = torch.tensor([4, 0, 2, 7, 1])
    together = climb(model, x, y, threat, Budget(0.1, 0.03, steps, rounds=7), start)
    for i, count in enumerate(steps.tolist()):
        alone = climb(model, x[i : i + 1], y[i : i + 1], threat, Budget(0.1, 0.03, count), start[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)
    longer = climb(model, x, y, threat, Budget(0.1, 0.03, 7), start)
    assert ((together - longer).flatten(1).abs().amax(1) > 1e-3).tolist() == [True, True, True, False, True]


def test_keep_going_is_asked_before_every_step_and_holds_the_others_where_they_are() -> None:
    model, x, y = Curved(), inner_images(3), labels(3, 4)
    seen: list[Ascent] = []

    def rule(ascent: Ascent) -> Tensor:
        seen.append(ascent)
        return torch.tensor([True, ascent.step < 2, False])

    start = 0.01 * torch.ones_like(x)
    delta = climb(model, x, y, LINF, Budget(0.1, 0.02, 4, keep_going=rule), start)

    assert [ascent.step for ascent in seen] == [0, 1, 2, 3]
    torch.testing.assert_close(seen[0].delta, start, rtol=0, atol=1e-15)
    for ascent in seen:
        gradient, logits = input_gradient(model, x + ascent.delta, partial(cross_entropy, y=y))
        torch.testing.assert_close((ascent.gradient, ascent.logits), (gradient, logits), rtol=0, atol=0)
        torch.testing.assert_close(ascent.x, x, rtol=0, atol=0)
    for i, count in enumerate((4, 2)):
        alone = climb(model, x[i : i + 1], y[i : i + 1], LINF, Budget(0.1, 0.02, count), start[i : i + 1])
        torch.testing.assert_close(delta[i : i + 1], alone, rtol=0, atol=1e-12)
    assert torch.equal(delta[2], seen[0].delta[2])


def test_a_sample_moves_only_while_it_has_steps_and_the_rule_lets_it() -> None:
    model, x, y = Binary(), inner_images(3), torch.zeros(3, dtype=torch.int64)
    steps = torch.tensor([1, 3, 3])
    going = torch.tensor([True, True, False])
    delta = climb(model, x, y, LINF, Budget(0.1, 0.02, steps, rounds=3, keep_going=lambda ascent: going))
    assert LINF.size(delta).tolist() == pytest.approx([0.02, 0.06, 0.0])


@both_norms
def test_where_a_rule_may_stop_them_samples_start_inside_ball_and_box(threat: Threat) -> None:
    """Also those that never move, with a radius of their own; without a rule the first step does it."""
    model, y = Curved(), labels(4, 4)
    x = torch.tensor([0.0, 0.5, 1.0, 0.02]).double().view(4, 1, 1, 1).expand(4, *SHAPE).contiguous()
    eps = torch.tensor([0.1, 0.05, 0.2, 0.1]).double()
    outside = torch.full_like(x, 0.25) * torch.tensor([-1.0, 1.0, 1.0, -1.0]).view(4, 1, 1, 1)
    seen: list[Tensor] = []

    def never(ascent: Ascent) -> Tensor:
        seen.append(ascent.delta)
        return torch.zeros(4, dtype=torch.bool)

    delta = climb(model, x, y, threat, Budget(eps, 0.02, 3, keep_going=never), outside)
    assert all(torch.equal(delta, visited) for visited in seen)
    inside = (x + threat.project(outside, eps)).clamp(0, 1) - x
    torch.testing.assert_close(delta, inside, rtol=0, atol=1e-15)
    assert (threat.size(delta) <= eps + 1e-15).all()
    assert threat.size(delta).tolist()[::2] == [0, 0]
    assert threat.size(delta)[1] == pytest.approx(0.05)
    model = Watched()
    climb(model, x, y, threat, Budget(eps, 0.02, 3), outside)
    torch.testing.assert_close(model.visited[0], x + outside, rtol=0, atol=1e-15)


def test_a_rule_that_stops_nobody_changes_nothing() -> None:
    model, x, y = Curved(), inner_images(5), labels(5, 4)
    start = LINF.project(0.05 * torch.randn(x.shape, generator=seeded(6), dtype=x.dtype))
    steps = torch.tensor([4, 0, 2, 7, 1])
    budget = Budget(0.1, 0.03, steps, rounds=7, compact=True)
    always = replace(budget, keep_going=lambda ascent: torch.ones(5, dtype=torch.bool))
    found = [climb(model, x, y, LINF, each, start) for each in (always, replace(budget, compact=False), budget)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-12)


def wrong_at_most(times: int, y: Tensor, seen: list[Ascent]) -> KeepGoing:
    """A rule with a memory: a sample stops at its misclassified iterate number `times` + 1, for good."""
    left = torch.full_like(y, times)
    moving = torch.ones_like(y, dtype=torch.bool)

    def rule(ascent: Ascent) -> Tensor:
        seen.append(ascent)
        left.sub_((ascent.logits.argmax(1) != y).long())
        return moving.logical_and_(left >= 0)

    return rule


@both_norms
@pytest.mark.parametrize("steps", [6, [6, 2, 6, 0, 3, 6, 1, 6]], ids=["steps alike", "steps of their own"])
def test_samples_that_a_rule_has_stopped_may_leave_the_batch(threat: Threat, steps: int | list[int]) -> None:
    """The same perturbations as with masks. The network sees who is still going, the rule everybody."""
    torch.manual_seed(0)
    x = torch.rand(8, *SHAPE, dtype=torch.float64)
    y = Curved()(x).argmax(1)  # all are classified correctly at first
    start = 0.01 * torch.randn(x.shape, dtype=torch.float64)
    eps = torch.linspace(0.02, 0.4, 8, dtype=torch.float64)
    found, seen, points = {}, {}, {}
    for compact in (False, True):
        model, seen[compact] = Watched(), []
        rule = wrong_at_most(1, y, seen[compact])
        budgeted = torch.tensor(steps) if isinstance(steps, list) else steps
        budget = Budget(eps, eps / 5, budgeted, rounds=6, compact=compact, keep_going=rule)
        found[compact] = climb(model, x, y, threat, budget, start)
        points[compact] = model.visited
    torch.testing.assert_close(found[True], found[False], rtol=0, atol=1e-12)

    going = torch.ones(8, dtype=torch.bool)
    allowed = torch.tensor(steps).expand(8)
    for step, (masked, compact) in enumerate(zip(seen[False], seen[True], strict=False)):
        going &= step < allowed
        torch.testing.assert_close(points[True][step], points[False][step][going], rtol=0, atol=1e-12)
        torch.testing.assert_close(compact.delta, masked.delta, rtol=0, atol=1e-12)
        for name in ("logits", "gradient"):
            torch.testing.assert_close(getattr(compact, name)[going], getattr(masked, name)[going], rtol=0, atol=1e-12)
        wrong = sum((ascent.logits.argmax(1) != y).long() for ascent in seen[False][: step + 1])
        going &= wrong <= 1
    sizes = [len(point) for point in points[True]]
    assert len(sizes) == len(seen[True])
    assert len(set(sizes)) >= 3
    assert sizes[-1] > 0


def test_of_a_sample_that_has_left_the_rule_sees_what_it_last_showed_and_lets_it_not_come_back() -> None:
    """The second sample is stopped at its second iterate, then let go on again; the third never enters."""
    x, y, seen = inner_images(3), labels(3, 4), []

    def rule(ascent: Ascent) -> Tensor:
        seen.append(ascent)
        return torch.tensor([True, ascent.step != 1, True])

    budget = Budget(0.1, 0.02, torch.tensor([4, 4, 0]), rounds=4, compact=True, keep_going=rule)
    model = Watched()
    delta = climb(model, x, y, LINF, budget)
    assert [len(point) for point in model.visited] == [2, 2, 1, 1]
    for ascent in seen:
        assert not ascent.logits[2].any()
        assert not ascent.gradient[2].any()
    for later in seen[2:]:
        for name in ("delta", "logits", "gradient"):
            assert torch.equal(getattr(later, name)[1], getattr(seen[1], name)[1])
    assert not torch.equal(seen[1].delta[1], seen[0].delta[1])
    assert torch.equal(delta[1], seen[1].delta[1])
    assert not delta[2].any()


def test_once_all_have_left_nothing_is_asked_any_more() -> None:
    x, y, seen = inner_images(3), labels(3, 4), []

    def rule(ascent: Ascent) -> Tensor:
        seen.append(ascent)
        return torch.full((3,), ascent.step < 1)

    model = Watched()
    climb(model, x, y, LINF, Budget(0.1, 0.02, 5, compact=True, keep_going=rule))
    assert len(seen) == len(model.visited) == 2


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_a_step_is_one_forward_pass_and_the_end_costs_none(rounds: int) -> None:
    model, x, y = Curved(), inner_images(3), labels(3, 4)
    delta = climb(model, x, y, LINF, Budget(0.1, 0.02, rounds))
    assert model.calls == rounds
    assert bool(delta.any()) == (rounds > 0)


def test_the_loop_runs_under_no_grad_and_leaves_no_graph() -> None:
    model, x, y = Curved(), inner_images(3), labels(3, 4)
    expected = climb(model, x, y, LINF, Budget(0.1, 0.02, 3))
    with torch.no_grad():
        delta = climb(model, x, y, LINF, Budget(0.1, 0.02, 3))
        assert not torch.is_grad_enabled()
    assert torch.equal(delta, expected)
    assert not delta.requires_grad
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_sample_s_gradient_does_not_shrink_with_the_batch() -> None:
    model, x, y = Curved(), inner_images(7), labels(7, 4)
    together, logits = input_gradient(model, x, partial(cross_entropy, y=y))
    alone, own = input_gradient(model, x[2:3], partial(cross_entropy, y=y[2:3]))
    torch.testing.assert_close((together[2:3], logits[2:3]), (alone, own), rtol=0, atol=1e-13)
    assert not together.requires_grad
    assert not logits.requires_grad


@both_norms
def test_without_a_gradient_nothing_moves(threat: Threat) -> None:
    x, y = inner_images(2), labels(2)
    delta = climb(_Flat(), x, y, threat, Budget(0.1, 0.05, 3))
    assert torch.equal(delta, torch.zeros_like(x))


class _Flat(nn.Module):
    """Says the same of every image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(2, 2).double() + 0 * x.sum()


def test_per_sample_steps_need_their_largest_number() -> None:
    with pytest.raises(BadInput, match="needs rounds"):
        Budget(0.1, 0.1, torch.tensor([1, 2]))


@both_norms
@pytest.mark.parametrize("steps", [[3, 1, 0, 4, 2, 4], [2, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0]])
def test_samples_without_steps_left_may_leave_the_batch(threat: Threat, steps: list[int]) -> None:
    """The same perturbations as with masks, at the cost of the steps that are taken, whatever the objective closes over."""
    x = torch.rand(6, *SHAPE, generator=seeded(4), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    start = 0.05 * torch.randn(x.shape, generator=seeded(5), dtype=torch.float64)
    eps = torch.linspace(0.05, 0.1, 6, dtype=torch.float64)
    found, sizes = {}, {}
    for compact in (False, True):
        model = Watched()
        budget = Budget(eps, eps / 3, torch.tensor(steps), rounds=4, compact=compact)
        found[compact] = climb(model, x, y, threat, budget, start)
        sizes[compact] = [len(point) for point in model.visited]
    torch.testing.assert_close(found[True], found[False], rtol=0, atol=1e-12)
    assert sizes[False] == [6] * 4
    assert sizes[True] == [sum(count > step for count in steps) for step in range(max(steps))]
