"""FGSM-CKPT against a transcription of its card, in float64, and what it chooses where the answer is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.methods import CKPT
from sparring.threat import Budget
from tests.methods.harness import train_on
from tests.methods.known_networks import Linear, middle
from tests.methods.reference import (
    EPS,
    Plain,
    assert_same,
    ball_and_box,
    batches,
    learner,
    set_up,
    smoothed_cross_entropy,
)

ALPHA = 0.11


pytestmark = pytest.mark.usefixtures("double_precision")


# Fidelity --------------------------------------------------------------------------------------------------------------


def fgsm_rs(plain: Plain, x: Tensor, y: Tensor, bn) -> tuple[Tensor, Tensor]:
    """d = x' - x, the random start included, and the logits of the forward pass at that start."""
    start = (x + EPS * (2 * torch.rand(x.shape) - 1)).clamp(0, 1).requires_grad_()
    with plain.mode(bn):
        logits = plain.network(start)
        (gradient,) = torch.autograd.grad(smoothed_cross_entropy(logits, y).mean(), start)
    return ball_and_box(start.detach() + ALPHA * gradient.sign(), x, EPS) - x, logits.detach()


def first_that_fools(model: nn.Module, x: Tensor, d: Tensor, y: Tensor, points: int) -> int | None:
    """The smallest j of 1..c at which one image (1, C, H, W) is misclassified."""
    for j in range(1, points + 1):
        if model(x + (j / points) * d).argmax() != y:
            return j
    return None


@pytest.mark.parametrize("bn", ["eval", "train"])
@pytest.mark.parametrize("points", [1, 3, 5])
def test_ckpt_steps_as_its_card_says(points: int, bn) -> None:
    """Image by image: the clean x if the random start fools, else x + (j / c) d at the smallest j that does, else j = c."""
    method = set_up(CKPT(points=points, alpha=ALPHA, bn=bn))
    subject, plain, met = learner(), Plain(), Counter()
    for step, batch in enumerate([batch for epoch in range(4) for batch in batches(epoch)]):
        x, y = batch.x, batch.y
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        d, at_start = fgsm_rs(plain, x, y, bn)
        x_adv = x.clone()
        with plain.mode("eval"), torch.no_grad():
            for i in range(len(y)):
                if at_start[i].argmax() != y[i]:
                    met["clean"] += 1
                    continue
                j = first_that_fools(plain.network, x[i : i + 1], d[i : i + 1], y[i], points)
                met[j] += 1
                x_adv[i] = x[i] + ((j or points) / points) * d[i]
        logits = plain.network(x_adv)
        expected = smoothed_cross_entropy(logits, y).mean()
        plain.descend(plain.gradients(expected))

        torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(loss.logits, logits, rtol=0, atol=1e-10)
    assert_same(subject, plain)
    assert set(met) >= {"clean", None, *range(1, min(points, 3) + 1)}, (
        "an outcome that the transcription has was not met"
    )


@pytest.mark.parametrize(("bn", "moved"), [("eval", 1), ("train", 2)])
def test_the_running_statistics_never_see_the_points_between(bn, moved: int) -> None:
    method, subject = set_up(CKPT(points=5, bn=bn)), learner()
    train_on(method, subject, batches()[0])
    counts = [value for name, value in subject.network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts == [moved] * 4


# Where the answer is known ---------------------------------------------------------------------------------------------

LEADS = 8 * torch.linspace(-0.4, 1.0, 16, dtype=torch.float64) ** 3  # of the true class, at the image itself


def leading(leads: Tensor):
    """Grey images of which a `Linear(-32)` gives the true class this lead; a perturbation adds its sum to it."""
    batch = middle()
    return replace(batch, x=batch.x + leads.view(-1, 1, 1, 1) / 64)


def chosen(points: int) -> tuple[Tensor, Tensor, Tensor]:
    """What CKPT takes, and the start and the whole perturbation, clip(start - alpha), that it chooses from."""
    method, batch = set_up(CKPT(points=points, alpha=ALPHA)), leading(LEADS)
    torch.manual_seed(0)
    delta = method.perturb(Linear(-32.0), batch).delta
    torch.manual_seed(0)
    start = EPS * (2 * torch.rand(batch.x.shape) - 1)
    return delta, start, (start - ALPHA).clamp(-EPS, EPS)


def lead(delta: Tensor) -> Tensor:
    return LEADS + delta.sum((1, 2, 3))


def test_an_image_that_is_misclassified_at_the_random_start_is_trained_clean() -> None:
    """Whatever the image itself is taken for."""
    delta, start, _ = chosen(points=3)
    astray = lead(start) < 0
    assert (astray & (LEADS > 0)).any()
    assert (~astray).any()
    assert not delta[astray].any()
    assert delta[~astray].flatten(1).any(1).all()


def test_where_no_point_fools_the_whole_perturbation_is_taken() -> None:
    delta, _, whole = chosen(points=3)
    proof = lead(whole) > 0
    assert 0 < proof.sum() < 16
    torch.testing.assert_close(delta[proof], whole[proof], rtol=0, atol=1e-12)


@pytest.mark.parametrize("points", [1, 2, 3, 4])
def test_otherwise_the_first_point_that_fools_is_taken(points: int) -> None:
    delta, start, whole = chosen(points)
    seen = set()
    for i in range(16):
        leads = [float(LEADS[i] + j / points * whole[i].sum()) for j in range(1, points + 1)]
        if lead(start)[i] < 0 or leads[-1] > 0:
            continue
        j = 1 + next(j for j, value in enumerate(leads) if value < 0)
        torch.testing.assert_close(delta[i], j / points * whole[i], rtol=0, atol=1e-12)
        seen.add(j)
    assert seen == set(range(1, points + 1))


# One at a time ---------------------------------------------------------------------------------------------------------

FAR = torch.full((16,), 20.0, dtype=torch.float64)  # nothing fools


def test_the_step_size_is_one_and_a_quarter_times_the_radius_unless_it_is_given() -> None:
    batch = leading(FAR)
    for alpha, reach in ((None, 1.25 * EPS), ("1/50", 0.02)):
        torch.manual_seed(0)
        delta = set_up(CKPT(alpha=alpha)).perturb(Linear(-32.0), batch).delta
        torch.manual_seed(0)
        start = EPS * (2 * torch.rand(batch.x.shape) - 1)
        torch.testing.assert_close(delta, (start - reach).clamp(-EPS, EPS), rtol=0, atol=1e-12)


def test_a_budget_replaces_the_radius_and_the_step_size() -> None:
    """Its steps do not apply."""
    eps, alpha = torch.linspace(0.01, 0.15, 16), torch.linspace(0.15, 0.01, 16)
    steps = torch.arange(16) % 5
    torch.manual_seed(0)
    delta = set_up(CKPT()).perturb(Linear(-32.0), leading(FAR), budget=Budget(eps, alpha, steps, rounds=4)).delta
    torch.manual_seed(0)
    radius, step = eps.view(-1, 1, 1, 1), alpha.view(-1, 1, 1, 1)
    start = radius * (2 * torch.rand(delta.shape) - 1)
    expected = torch.minimum(torch.maximum(start - step, -radius), radius)
    torch.testing.assert_close(delta, expected, rtol=0, atol=1e-12)


def test_values_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadInput, match="at least 1 point, not 0"):
        CKPT(points=0)
    with pytest.raises(BadInput, match="step size alpha must be positive, not 0"):
        CKPT(alpha=0)


def test_the_defaults_are_the_released_ones() -> None:
    assert CKPT() == CKPT(points=3, alpha=None, bn="eval")
