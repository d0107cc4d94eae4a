"""GradAlign (FGSM-GA) against a transcription of its card, in float64, and what its penalty does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.data import Batch
from sparring.errors import BadInput
from sparring.methods import AdversarialTraining, GradAlign
from sparring.methods.gradalign import AlignedPerturbation
from sparring.threat import Budget, Threat
from tests.methods import harness
from tests.methods.harness import train_on
from tests.methods.known_networks import Linear, middle
from tests.methods.reference import (
    CLASSES,
    EPS,
    Plain,
    assert_same,
    ball_and_box,
    batches,
    learner,
    network,
    pixel_gradient,
    set_up,
    smoothed_cross_entropy,
)

pytestmark = pytest.mark.usefixtures("double_precision")


# Fidelity --------------------------------------------------------------------------------------------------------------


def live_gradient(model: nn.Module, point: Tensor, y: Tensor) -> Tensor:
    """g of the card at a point (B, C, H, W), which can be differentiated again."""
    point = point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(smoothed_cross_entropy(model(point), y).mean(), point, create_graph=True)
    return gradient


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """<g, h> / (||g|| ||h||) of two gradients (B, C, H, W), (B,)."""

    def length(value: Tensor) -> Tensor:
        return value.square().sum((1, 2, 3)).sqrt()

    return (one * other).sum((1, 2, 3)) / (length(one) * length(other))


class Clamped(nn.Module):
    """A network behind the released clamp to [0, 1]; of two equal numbers autograd gives each half of the gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(torch.max(torch.min(x, torch.ones_like(x)), torch.zeros_like(x)))


@pytest.mark.parametrize(
    ("weight", "alpha", "bn", "halves"),
    [
        (2.0, None, "train", False),
        (0.2, 0.05, "train", False),
        (2.0, None, "eval", False),
        (2.0, None, "train_frozen_stats", False),
        (2.0, None, "train", True),
    ],
)
def test_gradalign_steps_as_its_card_says(weight: float, alpha: float | None, bn, halves: bool) -> None:
    """FGSM from zero; CE(x + delta) + lambda (1 - cos(g(x), g(x + eta))), g(x) FGSM's own and constant.

    The card does not fix the order of the forward passes, which the running statistics depend on: FGSM's, the loss's and
    then the probe's is the order of its terms. As released, g(x) goes through max(min(x, 1), 0), which halves it at ties.
    """
    method = set_up(GradAlign(weight, alpha=alpha, bn=bn, halves_edges=halves))
    subject, plain = learner(), Plain()
    for step, batch in enumerate(batches()):
        x, y = batch.x, batch.y
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        eta = EPS * (2 * torch.rand(x.shape) - 1)
        with plain.mode(bn):
            seen = Clamped(plain.network) if halves else plain.network
            fixed = pixel_gradient(seen, x, lambda z, y=y: smoothed_cross_entropy(z, y).mean())
        x_adv = ball_and_box(x + (alpha or EPS) * fixed.sign(), x, EPS)
        logits = plain.network(x_adv)
        adversarial = smoothed_cross_entropy(logits, y).mean()
        misaligned = (1 - cosines(fixed, live_gradient(plain.network, x + eta, y))).mean()
        expected = adversarial + weight * misaligned
        plain.descend(plain.gradients(expected))

        torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(
            dict(loss.terms), {"adversarial": adversarial, "misaligned": misaligned}, rtol=0, atol=1e-10
        )
        torch.testing.assert_close(loss.logits, logits, rtol=0, atol=1e-10)
        assert misaligned > 0.01
    assert_same(subject, plain)


def test_without_a_weight_it_is_fgsm_at_bit_for_bit() -> None:
    """The running statistics, too: no probe is shown to the network."""
    ends = []
    for method in (
        GradAlign(weight=0.0),
        AdversarialTraining(PGD(steps=1, alpha=harness.LINF.eps, start="zero", bn="train")),
    ):
        subject = learner()
        losses = [train_on(set_up(method), subject, batch).loss.total for batch in batches()]
        ends.append([subject.network.state_dict(), losses])
    assert harness.identical(*ends)


# The penalty -----------------------------------------------------------------------------------------------------------


def weight_gradient(loss: Callable[[nn.Module], Tensor], model: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss(model), list(model.parameters()))])


def test_the_gradient_at_the_image_is_a_constant_of_the_loss() -> None:
    """As released; differentiating it as well would be another method."""
    method, batch = set_up(GradAlign(weight=2.0)), batches()[0]
    x, y = batch.x, batch.y
    found = method.perturb(network(), batch)

    def by_hand(model: nn.Module, both: bool) -> Tensor:
        at_image = live_gradient(model, x, y)
        cosine = cosines(at_image if both else at_image.detach(), live_gradient(model, x + found.probe, y))
        return smoothed_cross_entropy(model(x + found.delta), y).mean() + 2 * (1 - cosine).mean()

    of_the_library = weight_gradient(lambda model: method.loss(model, batch, found).total, network())
    one = weight_gradient(lambda model: by_hand(model, both=False), network())
    both = weight_gradient(lambda model: by_hand(model, both=True), network())
    torch.testing.assert_close(of_the_library, one, rtol=0, atol=1e-10)
    assert (both - one).norm() > 0.1 * one.norm()


class Hinged(nn.Module):
    """Linear in what exceeds middle grey: a darker image has no gradient at all."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(CLASSES, 64, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5).relu() @ self.weight.T


def shades(*levels: float) -> Batch:
    """Images of these shades in turn, a little noisy."""
    batch = batches()[0]
    grey = torch.tensor(levels).repeat(16)[:16].view(-1, 1, 1, 1)
    noise = 0.005 * torch.rand(batch.x.shape, generator=torch.Generator().manual_seed(0))
    return replace(batch, x=grey + noise)


def test_images_without_a_gradient_are_left_out_of_the_mean() -> None:
    """Dark: neither gradient is there; almost middle grey: only the one at the probe is."""
    method, batch, model = set_up(GradAlign(weight=2.0)), shades(0.2, 0.8, 0.49, 0.7), Hinged()
    x, y = batch.x, batch.y
    found = method.perturb(model, batch)
    at_probe = live_gradient(model, x + found.probe, y)
    present = torch.arange(16) % 2 == 1
    assert found.gradient.flatten(1).any(1).tolist() == present.tolist()
    assert at_probe.flatten(1).any(1).tolist() == (torch.arange(16) % 4 != 0).tolist()

    def by_hand(model: nn.Module) -> Tensor:
        cosine = cosines(found.gradient[present], live_gradient(model, (x + found.probe)[present], y[present]))
        return smoothed_cross_entropy(model(x + found.delta), y).mean() + 2 * (1 - cosine).mean()

    torch.testing.assert_close(method.loss(model, batch, found).total, by_hand(model), rtol=0, atol=1e-10)
    gradient = weight_gradient(lambda model: method.loss(model, batch, found).total, model)
    torch.testing.assert_close(gradient, weight_gradient(by_hand, model), rtol=0, atol=1e-10)


def test_where_the_gradient_vanishes_at_the_probe_alone_the_image_is_left_out_too() -> None:
    method, batch, model = set_up(GradAlign(weight=2.0)), shades(0.2), Hinged()
    zero = torch.zeros_like(batch.x)
    somewhere = AlignedPerturbation(zero, gradient=torch.ones_like(zero), probe=zero)
    loss = method.loss(model, batch, somewhere)
    assert loss.terms["misaligned"] == 0
    assert weight_gradient(lambda model: method.loss(model, batch, somewhere).total, model).isfinite().all()


def test_where_all_gradients_vanish_nothing_is_penalised_and_nothing_is_nan() -> None:
    method, batch, model = set_up(GradAlign(weight=2.0)), shades(0.2), Hinged()
    found = method.perturb(model, batch)
    assert not found.gradient.any()
    lit = replace(found, delta=torch.full_like(batch.x, 0.6))  # so that the first term has a gradient
    loss = method.loss(model, batch, lit)
    assert loss.terms["misaligned"] == 0
    gradient = weight_gradient(lambda model: method.loss(model, batch, lit).total, model)
    alone = weight_gradient(lambda model: smoothed_cross_entropy(model(batch.x + 0.6), batch.y).mean(), model)
    torch.testing.assert_close(gradient, alone, rtol=0, atol=1e-12)
    assert alone.norm() > 0.01


@pytest.mark.parametrize("scale", [1e-10, 1e-25, 1e-35])
def test_gradients_whose_squares_vanish_in_single_precision_still_have_a_direction(scale: float) -> None:
    method, batch, model = set_up(GradAlign(weight=2.0)), shades(0.8), Hinged().float()
    single = replace(batch, x=batch.x.float())
    found = method.perturb(model, single)
    turned = found.gradient.flip(-1)
    known = method.loss(model, single, replace(found, gradient=turned)).terms["misaligned"]
    faint = method.loss(model, single, replace(found, gradient=scale * turned)).terms["misaligned"]
    assert 0.1 < known < 1.9
    torch.testing.assert_close(faint, known, rtol=1e-3, atol=0)


def test_on_digits_the_gradients_agree_better_than_after_fgsm_at() -> None:
    """The mean of cos(g(x), g(x + eta)) over the training images, after eight epochs in a large ball."""
    agreement, threat = {}, Threat("Linf", "60/255")
    for weight in (0.0, 2.0):
        method, subject = set_up(GradAlign(weight), threat), learner()
        for epoch in range(8):
            for step, batch in enumerate(batches(epoch)):
                torch.manual_seed(harness.STEPS_PER_EPOCH * epoch + step)
                train_on(method, subject, batch)
        subject.network.eval()
        torch.manual_seed(0)
        found = []
        for batch in batches():
            eta = threat.eps * (2 * torch.rand(batch.x.shape) - 1)
            pair = (live_gradient(subject.network, point, batch.y) for point in (batch.x, batch.x + eta))
            found.append(cosines(*pair).detach())
        agreement[weight] = torch.cat(found).mean().item()
    assert agreement[2.0] > agreement[0.0] + 0.2


# One at a time ---------------------------------------------------------------------------------------------------------


def test_the_running_statistics_see_the_image_the_example_and_the_probe() -> None:
    method, subject = set_up(GradAlign()), learner()
    train_on(method, subject, batches()[0])
    counts = [value for name, value in subject.network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts == [3] * 4


def test_the_probe_is_drawn_from_the_ball_and_not_clamped_to_the_box() -> None:
    method, batch = set_up(GradAlign()), batches()[0]  # digits are black at the edges
    probe = method.perturb(network(), batch).probe
    assert (batch.x + probe).min() < -0.9 * EPS
    assert 0.99 * EPS < probe.abs().max() <= EPS
    assert probe.mean().abs() < 0.1 * EPS


def test_a_budget_replaces_the_radius_and_the_step_size() -> None:
    """Also of the probe; its steps do not apply."""
    method, batch = set_up(GradAlign()), middle()
    eps, alpha = torch.linspace(0.01, 0.2, 16), torch.linspace(0.2, 0.01, 16)
    torch.manual_seed(0)
    found = method.perturb(Linear(-32.0), batch, budget=Budget(eps, alpha, torch.arange(16) % 3, rounds=2))
    torch.manual_seed(0)
    reach = torch.minimum(eps, alpha).view(-1, 1, 1, 1)
    torch.testing.assert_close(found.delta, -reach.expand(16, 1, 8, 8), rtol=0, atol=1e-12)
    drawn = eps.view(-1, 1, 1, 1) * (2 * torch.rand(batch.x.shape) - 1)
    torch.testing.assert_close(found.probe, drawn, rtol=0, atol=1e-12)


def test_values_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadInput, match="weight of at least 0, not -1"):
        GradAlign(weight=-1.0)
    with pytest.raises(BadInput, match="step size alpha must be positive, not 0"):
        GradAlign(alpha=0)


def test_the_defaults_are_the_released_ones() -> None:
    assert GradAlign() == GradAlign(weight=0.2, alpha=None, bn="train")
