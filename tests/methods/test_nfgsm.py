"""N-FGSM against a transcription of its formula, a whole step at a time, in float64, and what its settings mean."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sparring.errors import BadInput
from sparring.methods import LAS, NFGSM
from sparring.threat import Budget
from tests.methods import harness
from tests.methods.harness import L2, train_on
from tests.methods.known_networks import Linear, middle
from tests.methods.reference import (
    CLASSES,
    EPS,
    Plain,
    assert_same,
    batches,
    learner,
    network,
    pixel_gradient,
    set_up,
    smoothed_cross_entropy,
)

pytestmark = pytest.mark.usefixtures("double_precision")


# Fidelity --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "alpha", "kept", "box", "bn"),
    [
        (2.0, None, 1.0, True, "train"),
        (2.0, None, 1.0, False, "train"),
        (0.5, 0.07, 0.7, True, "eval"),
        (3.0, 0.12, 0.9, False, "train_frozen_stats"),
    ],
)
def test_nfgsm_steps_as_its_formula_says(noise: float, alpha: float | None, kept: float, box: bool, bn) -> None:
    """eta ~ U(-k eps, k eps), x' = x + eta + alpha sign grad CE(f(x + eta), y); then SGD on the smoothed CE(f(x'), y)."""
    smoothing = (1 - kept) * CLASSES / (CLASSES - 1)
    method = set_up(NFGSM(noise=noise, alpha=alpha, smoothing=smoothing, box=box, bn=bn))
    subject, plain, outside = learner(), Plain(), 0.0
    for step, batch in enumerate([*batches(0), *batches(1)]):
        x, y = batch.x, batch.y
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        noisy = x + noise * EPS * (2 * torch.rand(x.shape) - 1)
        noisy = noisy.clamp(0, 1) if box else noisy
        with plain.mode(bn):
            gradient = pixel_gradient(plain.network, noisy, lambda z, y=y: smoothed_cross_entropy(z, y).mean())
        x_adv = noisy + (EPS if alpha is None else alpha) * gradient.sign()
        x_adv = x_adv.clamp(0, 1) if box else x_adv
        outside = max(outside, (x_adv - x).abs().max().item() / EPS)
        logits = plain.network(x_adv)
        expected = smoothed_cross_entropy(logits, y, kept).mean()
        plain.descend(plain.gradients(expected))

        torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(loss.logits, logits, rtol=0, atol=1e-10)
    assert_same(subject, plain)
    assert outside > 1.1  # radii: nothing is clipped to the ball


def test_in_the_l2_norm_noise_and_step_have_that_norm_s_lengths() -> None:
    method, batch, model = set_up(NFGSM(noise=2.0, alpha=0.3, box=False), L2), batches()[0], network()
    found = method.perturb(model, batch)

    def length(value: Tensor) -> Tensor:
        return value.square().sum((1, 2, 3)).sqrt()

    reach = 2 * 0.5  # two radii
    assert (length(found.start) <= reach + 1e-12).all()
    assert length(found.start).max() > 0.9 * reach  # in 64 dimensions most of a ball is near its surface
    gradient = pixel_gradient(model.train(), batch.x + found.start, lambda z: smoothed_cross_entropy(z, batch.y).sum())
    step = 0.3 * gradient / length(gradient).view(-1, 1, 1, 1)
    torch.testing.assert_close(found.delta, found.start + step, rtol=0, atol=1e-10)


# One at a time ---------------------------------------------------------------------------------------------------------


def test_without_the_box_images_leave_the_pixels_and_the_noise_fills_two_radii() -> None:
    found = set_up(NFGSM(box=False)).perturb(network(), batches()[0])
    assert 1.99 * EPS < found.start.abs().max() <= 2 * EPS
    assert found.start.mean().abs() < 0.1 * EPS
    assert found.delta.abs().max() > 2.5 * EPS
    assert (batches()[0].x + found.delta).min() < -2 * EPS  # digits are black at the edges


def test_with_the_box_noisy_and_perturbed_images_stay_in_the_pixels() -> None:
    batch = batches()[0]
    found = set_up(NFGSM()).perturb(network(), batch)
    for perturbed in (batch.x + found.start, batch.x + found.delta):
        assert perturbed.min() >= 0
        assert perturbed.max() <= 1
    assert found.delta.abs().max() > 2 * EPS


def test_without_noise_it_is_one_step_from_the_image() -> None:
    batch = middle()
    found = set_up(NFGSM(noise=0.0)).perturb(Linear(-32.0), batch)
    assert not found.start.any()
    torch.testing.assert_close(found.delta, torch.full_like(batch.x, -EPS), rtol=0, atol=1e-12)


def test_a_budget_replaces_the_radius_of_the_noise_and_the_step_size() -> None:
    """Its radius of starts, if there is one, is the noise's; its steps do not apply."""
    method, batch = set_up(NFGSM(noise=2.0, alpha=0.05, box=False)), middle()
    eps, alpha, start = torch.linspace(0.01, 0.2, 16), torch.linspace(0.2, 0.01, 16), torch.linspace(0.1, 0.3, 16)
    for budget, radius in (
        (Budget(eps, alpha, torch.arange(16) % 3, rounds=2), eps),
        (Budget(eps, alpha, 3, start=start), start),
        (Budget(0.02, 0.03, 1), torch.full((16,), 0.02)),
    ):
        torch.manual_seed(0)
        found = method.perturb(Linear(-32.0), batch, budget=budget)
        torch.manual_seed(0)
        drawn = 2 * radius.view(-1, 1, 1, 1) * (2 * torch.rand(batch.x.shape) - 1)
        torch.testing.assert_close(found.start, drawn, rtol=0, atol=1e-12)
        size = budget.alpha.view(-1, 1, 1, 1) if isinstance(budget.alpha, Tensor) else budget.alpha
        torch.testing.assert_close(found.delta, drawn - size, rtol=0, atol=1e-12)


def test_the_attack_ignores_the_smoothing_of_the_loss() -> None:
    found = []
    for smoothing in (0.0, 0.9):
        torch.manual_seed(0)
        found.append(set_up(NFGSM(smoothing=smoothing)).perturb(network(), batches()[0]).delta)
    assert torch.equal(*found)


@pytest.mark.parametrize(("bn", "moved"), [("train", 2), ("eval", 1), ("train_frozen_stats", 1)])
def test_the_running_statistics_see_the_attack_only_in_training_mode(bn, moved: int) -> None:
    method, subject = set_up(NFGSM(bn=bn)), learner()
    train_on(method, subject, batches()[0])
    counts = [value for name, value in subject.network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts == [moved] * 4


@pytest.mark.parametrize("noise", [-1.0, math.inf])
def test_noise_that_makes_no_sense_is_refused(noise: float) -> None:
    with pytest.raises(BadInput, match=f"number of radii, at least 0, not {noise}: write 2"):
        NFGSM(noise=noise)


@pytest.mark.parametrize("alpha", [0, "-8/255"])
def test_a_step_that_does_not_move_is_refused(alpha: float | str) -> None:
    with pytest.raises(BadInput, match=f"step size alpha must be positive, not {alpha}"):
        NFGSM(alpha=alpha)


def test_a_step_size_may_be_written_as_a_fraction() -> None:
    assert NFGSM(alpha="8/255").alpha == NFGSM(alpha=8 / 255).alpha
    assert str(NFGSM(alpha="8/255").alpha) == "8/255"


def test_las_has_nothing_to_choose_for_it() -> None:
    with pytest.raises(BadInput):
        LAS(NFGSM()).setup(harness.task())


def test_the_step_is_the_radius_of_the_threat() -> None:
    wide = replace(harness.LINF, eps="51/255")
    found = set_up(NFGSM(noise=0.0), wide).perturb(Linear(-32.0), middle())
    torch.testing.assert_close(found.delta, torch.full((16, 1, 8, 8), -0.2), rtol=0, atol=1e-12)


def test_the_defaults_are_the_paper_s_noise_and_step_and_the_released_code_s_rest() -> None:
    assert NFGSM() == NFGSM(noise=2.0, alpha=None, smoothing=0.0, box=True, bn="train")
