"""MultiTargeted against PyTorch's Adam, closed forms and PGD."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparring.attacks import PGD, Attack, CountedModel, MultiTargeted
from sparring.errors import BadInput
from sparring.losses import targeted_margin
from sparring.threat import Threat
from tests.attacks.harness import (
    L2,
    LINF,
    SHAPE,
    Curved,
    Linear,
    Window,
    after,
    assert_a_step_is_quiet,
    assert_batches_do_not_matter,
    assert_rows_do_not_meet,
    both_norms,
    noisy_digits,
    opened,
    pictures,
    streams,
)


def five_classes() -> Linear:
    """Class 2 wins by far everywhere."""
    return Linear((0.0, -1.0, 50.0, -2.0, -3.0), true=2, rival=0)


def test_attempts_take_turns_with_the_wrong_classes_from_the_likeliest_on() -> None:
    model, x = Curved(6), pictures(20)
    order = model(x).argsort(1, descending=True)
    for place in (0, 2, 5):  # also where the network is wrong to begin with
        y = order[:, place]
        wrong = torch.cat([order[:, :place], order[:, place + 1 :]], 1)
        for targets, cycle in ((9, [0, 1, 2, 3, 4, 0, 1]), (3, [0, 1, 2, 0, 1, 2, 0]), (1, [0] * 7)):
            search = MultiTargeted(targets=targets)
            for attempt, rank in enumerate(cycle):
                assert torch.equal(opened(search, model, x, y, LINF, attempt).target, wrong[:, rank])


def test_restarts_are_counted_over_all_targets() -> None:
    assert MultiTargeted().attempts(10) == MultiTargeted().attempts(3) == 10
    assert MultiTargeted(restarts=4, targets=2).attempts(10) == 4
    assert MultiTargeted(steps=30).max_steps == 30


@both_norms
def test_starts_are_spread_over_the_ball_anew_for_each_restart(threat: Threat) -> None:
    search, x = MultiTargeted(), pictures(30, 0.3, 0.7)
    starts = [opened(search, five_classes(), x, torch.full((30,), 2), threat, attempt).point - x for attempt in (0, 1)]
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
    state = opened(search, model, x, y, threat, attempt=1)
    points = [state.point[row].clone().requires_grad_() for row in range(5)]
    optimizers = [torch.optim.Adam([point], lr=1.0, betas=(0.9, 0.999), eps=1e-9, maximize=True) for point in points]
    second = [torch.zeros(()).double() for _ in points]
    for step in range(steps):
        rate = 0.1 if step < steps / 2 else 0.01 if step < 3 * steps / 4 else 0.001
        state = after(search, state, model, threat)
        for row, (point, optimizer) in enumerate(zip(points, optimizers, strict=True)):
            before = point.detach().clone()
            logits = model(point[None])
            optimizer.zero_grad()
            (logits[0, state.target[row]] - logits[0, y[row]]).backward()
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
        torch.testing.assert_close(state.point, torch.stack(points).detach(), rtol=0, atol=1e-9)


def test_the_rate_falls_at_half_and_at_three_quarters_of_the_steps() -> None:
    """Seen where the gradient is constant: Adam's step is then the rate itself."""
    for steps, expected in ((200, [0.1] * 100 + [0.01] * 50 + [0.001] * 50), (5, [0.1, 0.1, 0.1, 0.01, 0.001])):
        search, model, threat = MultiTargeted(steps=steps), five_classes(), Threat("Linf", "0.4")
        x = pictures(1, 0.45, 0.55).expand(steps, *SHAPE)
        state = opened(search, model, x, torch.full((steps,), 2), threat)
        gradient = model.slope(state.target)
        # Moments as they are after so many steps with this gradient.
        taken = torch.arange(steps)
        decayed = [1 - decay ** taken.double().view(-1, 1, 1, 1) for decay in (0.9, 0.999)]
        state = replace(state, point=x, step=taken, mean=decayed[0] * gradient, square=decayed[1] * gradient**2)
        moved = search.step(CountedModel(model), state, threat).point - x
        sizes = torch.tensor(expected, dtype=torch.float64).view(-1, 1, 1, 1)
        torch.testing.assert_close(moved, sizes * gradient.sign(), rtol=1e-6, atol=0)


@both_norms
def test_every_target_s_optimum_on_a_linear_network_is_reached(threat: Threat) -> None:
    search, model, x = MultiTargeted(steps=60), five_classes(), pictures(8, 0.3, 0.7)
    y = torch.full((8,), 2)
    seen = set()
    for attempt in range(4):
        state = opened(search, model, x, y, threat, attempt)
        for _ in range(60):
            state = after(search, state, model, threat)
            assert not state.found.any()
        worst = threat.eps * model.direction(threat, state.target)
        torch.testing.assert_close(state.point - x, worst, rtol=0, atol=1e-4)
        best = targeted_margin(model(x + worst), y, state.target)
        torch.testing.assert_close(targeted_margin(model(state.point), y, state.target), best, rtol=0, atol=1e-6)
        seen |= set(state.target.tolist())
    assert seen == {0, 1, 3, 4}


def test_an_image_that_is_wrong_at_an_earlier_iterate_counts_as_fooled() -> None:
    x, y, threat = torch.full((1, 1, 1, 1), 0.5).double(), torch.tensor([0]), Threat("Linf", 0.3)
    search, model = MultiTargeted(steps=4, restarts=1), Window(0.58, 0.62)
    state = replace(opened(search, model, x, y, threat), point=x)
    visited = []
    for _ in range(4):
        state = after(search, state, model, threat)
        visited.append((round(state.candidate.item(), 4), state.found.item()))
    assert visited == [(0.5, False), (0.6, True), (0.7, False), (0.71, False)]


def test_any_wrong_class_counts_not_only_the_target() -> None:
    model, x = Curved(), pictures(60)
    order = model(x).argsort(1, descending=True)
    search = MultiTargeted(targets=2)
    state = replace(opened(search, model, x, order[:, 2], LINF, attempt=1), point=x)
    assert torch.equal(state.target, order[:, 1])  # while the network says order[:, 0]
    assert after(search, state, model, LINF).found.all()
    right = replace(opened(search, model, x, order[:, 0], LINF, attempt=1), point=x)
    assert not after(search, right, model, LINF).found.any()


@both_norms
def test_an_adversarial_image_depends_on_its_own_index_and_not_on_its_batch(threat: Threat) -> None:
    model, x, search = Curved(), pictures(64), MultiTargeted(steps=8, restarts=4)
    assert_batches_do_not_matter(search, model, x, threat, atol=1e-9)


@both_norms
def test_rows_at_different_steps_do_not_meet_and_a_turn_reads_no_tensor_and_changes_none(threat: Threat) -> None:
    model, x = Curved(), pictures(5)
    search, y = MultiTargeted(steps=10), torch.arange(5) % 4
    state = after(search, opened(search, model, x, y, threat), model, threat)
    state = replace(state, step=torch.tensor([1, 3, 5, 8, 9]))
    counted = assert_a_step_is_quiet(search, state, model, threat)
    assert (counted.forwards, counted.backwards) == (5, 5)
    assert_rows_do_not_meet(search, state, model, threat)


@pytest.mark.parametrize("threat", [Threat("Linf", "0.12"), Threat("L2", "0.6")], ids=["Linf", "L2"])
def test_it_leaves_fewer_digits_than_pgd_20(threat: Threat) -> None:
    model, x, y = noisy_digits()
    x, y = x[:300], y[:300]

    def left(attack: Attack) -> int:
        adversarial = attack(model, x, y, threat, generator=streams(300))
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
