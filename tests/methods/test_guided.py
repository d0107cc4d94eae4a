"""GAT, NuAT and NuAT2 against transcriptions of their cards, in float64, and the two distances in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.methods import GAT, Method, NuAT, Perturbation
from sparring.schedule import Constant, MultiStep, Piecewise
from sparring.threat import Budget
from tests.methods import harness
from tests.methods.harness import part, train_on
from tests.methods.known_networks import Linear, Table, middle
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


def squared(clean: Tensor, adversarial: Tensor) -> Tensor:
    """||p(x) - p(x')||_2^2, the mean over the batch."""
    return (clean.softmax(1) - adversarial.softmax(1)).square().sum() / len(clean)


def nuclear(clean: Tensor, adversarial: Tensor) -> Tensor:
    """||Z(x) - Z(x')||_* / B, the sum of the singular values."""
    return torch.linalg.svd(clean - adversarial, full_matrices=False).S.sum() / len(clean)


def signs(x: Tensor) -> Tensor:
    return 1 - 2 * (torch.rand(x.shape) < 0.5).double()


RISING = Piecewise((("0", 0.5), ("1", 2.5)))  # in epoch 1 of 4: 1; in epoch 3: 2
JUMPING = MultiStep(("1/2",), gamma=2.0)
FIRST, EVERY_OTHER = (lambda batch, step: step == 0), (lambda batch, step: batch % 2 == 1)  # both count from 0
CASES = {
    "GAT": (GAT(weight=10.0, ramp=JUMPING), squared, 10.0, 1, EVERY_OTHER),
    "GAT, train": (GAT(weight=10.0, ramp=RISING, bn="train"), squared, 10.0, 1, EVERY_OTHER),
    "GAT as released": (GAT(weight=10.0, ramp=JUMPING, clean_bn="train"), squared, 10.0, 1, EVERY_OTHER),
    "NuAT": (NuAT(weight=4.5, ramp=RISING), nuclear, 4.5, 1, EVERY_OTHER),
    "NuAT as released": (
        NuAT(weight=4.5, ramp=RISING, clean_bn="train", divisor=64),
        lambda clean, adversarial: nuclear(clean, adversarial) * len(clean) / 64,
        4.5,
        1,
        EVERY_OTHER,
    ),
    "NuAT2": (NuAT(weight=4.5, ramp=RISING, steps=2), nuclear, 4.5, 2, FIRST),
    "NuAT2 as released": (
        NuAT(weight=4.0, ramp=RISING, steps=2, alpha=EPS, clean_bn="eval"),
        nuclear,
        4.0,
        2,
        FIRST,
    ),
    "NuAT, three steps": (NuAT(weight=4.5, ramp=JUMPING, steps=3), nuclear, 4.5, 3, FIRST),
}


@pytest.mark.parametrize(("method", "distance", "weight", "steps", "guides"), CASES.values(), ids=CASES.keys())
def test_guided_training_steps_as_its_card_says(
    method: Method, distance: Callable, weight: float, steps: int, guides: Callable
) -> None:
    """From +-eps / 2, steps that add up to eps along CE, where guided along CE + lambda D, D to the clean prediction of the
    network in training mode (NuAT2 as released: in evaluation mode, and each step is of eps); then SGD on CE(x) + lambda D,
    the adversarial images first. As released GAT and NuAT predict clean images before every attack, whose statistics count,
    and NuAT divides by 64 whatever the batch.
    lambda is the weight in epoch 1 and twice that in epoch 3.
    """
    set_up(method)
    subject, plain, count = learner(), Plain(), 0
    size = EPS if getattr(method, "alpha", None) else EPS / steps
    for epoch, factor in ((1, 1.0), (3, 2.0)):
        for batch in batches(epoch):
            x, y = batch.x, batch.y
            torch.manual_seed(count)
            loss = train_on(method, subject, batch, epoch).loss

            torch.manual_seed(count)
            x_adv = (x + EPS / 2 * signs(x)).clamp(0, 1)
            with plain.mode(method.clean_bn):
                clean = plain.network(x).detach()
            for step in range(steps):
                strength = factor * weight if guides(count, step) else 0.0
                with plain.mode(method.bn):
                    gradient = pixel_gradient(
                        plain.network,
                        x_adv,
                        lambda z, y=y, clean=clean, strength=strength: (
                            smoothed_cross_entropy(z, y).mean() + (strength * distance(clean, z) if strength else 0)
                        ),
                    )
                x_adv = ball_and_box(x_adv + size * gradient.sign(), x, EPS)
            adversarial = plain.network(x_adv)
            clean = plain.network(x)
            natural, gap = smoothed_cross_entropy(clean, y).mean(), distance(clean, adversarial)
            expected = natural + factor * weight * gap
            plain.descend(plain.gradients(expected))
            count += 1

            torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
            torch.testing.assert_close(dict(loss.terms), {"natural": natural, "distance": gap}, rtol=0, atol=1e-10)
            torch.testing.assert_close(loss.logits, adversarial, rtol=0, atol=1e-10)
    assert_same(subject, plain)


# The attack ------------------------------------------------------------------------------------------------------------


def attacked(method: Method, batch: int, budget: Budget | None = None) -> Perturbation:
    """What the method finds for the same images at the same network, as the batch of that number."""
    torch.manual_seed(0)
    return method.perturb(network(), batches()[0], method.phase(0, batch), budget)


@pytest.mark.parametrize("make", [GAT, NuAT])
def test_the_guide_enters_the_attack_in_every_second_batch(make) -> None:
    """The second, the fourth, and so on."""
    method = set_up(make(weight=50.0, ramp=Constant()))
    found = [attacked(method, number).delta for number in range(4)]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[0], attacked(set_up(make(weight=0.0)), 0).delta)


def test_the_guide_enters_the_first_of_several_steps_in_every_batch() -> None:
    method = set_up(NuAT(weight=50.0, ramp=Constant(), steps=2))
    found = [attacked(method, number).delta for number in range(2)]
    assert torch.equal(*found)
    assert not torch.equal(found[0], attacked(set_up(NuAT(weight=0.0, steps=2)), 0).delta)


def test_the_run_s_steps_are_what_is_counted() -> None:
    method, subject = set_up(GAT()), learner()
    for number, batch in enumerate(batches()):
        train_on(method, subject, batch)
        assert method.phase(0, subject.steps).second == (number % 2 == 0)  # of the step after it


@pytest.mark.parametrize("make", [GAT, NuAT])
def test_the_attack_starts_at_half_the_radius_up_or_down(make) -> None:
    method, batch = set_up(make()), middle()
    torch.manual_seed(0)
    start = method.perturb(network(), batch).start
    torch.testing.assert_close(start.abs(), torch.full_like(start, EPS / 2), rtol=0, atol=1e-12)
    assert 0.4 < (start > 0).double().mean() < 0.6


@pytest.mark.parametrize("make", [GAT, NuAT])
def test_the_running_statistics_see_the_clean_batch_twice_where_it_is_released_so(make) -> None:
    """Once before each attack, guided or not."""
    method, subject = set_up(make(ramp=Constant(), clean_bn="train")), learner()
    for done, batch in enumerate(batches(), start=1):
        train_on(method, subject, batch)
        counts = [v for name, v in subject.network.state_dict().items() if name.endswith("num_batches_tracked")]
        assert counts == [3 * done] * 4


@pytest.mark.parametrize("make", [GAT, NuAT, lambda ramp: NuAT(ramp=ramp, steps=2)])
def test_the_running_statistics_see_both_batches_once(make) -> None:
    """The clean prediction for the guide is made in training mode too, and leaves them alone."""
    method, subject = set_up(make(ramp=Constant())), learner()
    for done, batch in enumerate(batches(), start=1):
        train_on(method, subject, batch)
        counts = [v for name, v in subject.network.state_dict().items() if name.endswith("num_batches_tracked")]
        assert counts == [2 * done] * 4


@pytest.mark.parametrize("make", [GAT, NuAT])
def test_a_budget_replaces_the_radius_and_the_step_size(make) -> None:
    """Of the start, half of the radius; its number of steps does not apply."""
    method = set_up(make())
    eps, alpha = torch.linspace(0.02, 0.2, 16), torch.linspace(0.2, 0.01, 16)
    torch.manual_seed(0)
    found = method.perturb(Linear(-32.0), middle(), budget=Budget(eps, alpha, torch.arange(16) % 3, rounds=2))
    torch.manual_seed(0)
    eps, alpha = eps.view(-1, 1, 1, 1), alpha.view(-1, 1, 1, 1)
    start = eps / 2 * signs(found.delta)
    torch.testing.assert_close(found.start, start, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.delta, torch.maximum(start - alpha, -eps), rtol=0, atol=1e-12)


# The loss --------------------------------------------------------------------------------------------------------------


def predictions(seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    clean, adversarial = (torch.randn(16, CLASSES, requires_grad=True) for _ in range(2))
    return clean, adversarial


def descend(method: Method, clean: Tensor, adversarial: Tensor) -> None:
    batch = batches()[0]
    method.loss(Table(adversarial, clean), batch, Perturbation(torch.zeros_like(batch.x))).total.backward()


def of_cross_entropy(clean: Tensor) -> Tensor:
    return (clean.detach().softmax(1) - nn.functional.one_hot(batches()[0].y, CLASSES)) / 16


def test_the_nuclear_norm_s_gradient_is_the_matrix_s_direction() -> None:
    """d||Z - Z'||_* / dZ = U V^T, for Z - Z' = U S V^T; at the clean prediction besides that of CE."""
    clean, adversarial = predictions()
    descend(set_up(NuAT(weight=4.5, ramp=Constant())), clean, adversarial)
    u, _, vt = torch.linalg.svd((clean - adversarial).detach(), full_matrices=False)
    torch.testing.assert_close(adversarial.grad, -4.5 * u @ vt / 16, rtol=0, atol=1e-12)
    torch.testing.assert_close(clean.grad, of_cross_entropy(clean) + 4.5 * u @ vt / 16, rtol=0, atol=1e-12)


def test_gat_s_gradient_flows_through_both_predictions() -> None:
    """d(p . a) / dz = p (a - p . a) of a softmax p, with a = 2 (p - p')."""
    clean, adversarial = predictions()
    descend(set_up(GAT(weight=10.0)), clean, adversarial)
    p, q = clean.detach().softmax(1), adversarial.detach().softmax(1)
    a = 2 * (p - q)
    of_p, of_q = (share * (a - (share * a).sum(1, keepdim=True)) for share in (p, q))
    torch.testing.assert_close(adversarial.grad, -10 * of_q / 16, rtol=0, atol=1e-12)
    torch.testing.assert_close(clean.grad, of_cross_entropy(clean) + 10 * of_p / 16, rtol=0, atol=1e-12)


@pytest.mark.parametrize("images", [16, 4])
@pytest.mark.parametrize("rank", [0, 1])
def test_the_nuclear_norm_of_equal_or_proportional_predictions_has_a_finite_gradient(images: int, rank: int) -> None:
    """Where singular values are zero, or equal, which is where a derivative of a singular vector would not exist."""
    batch = part(batches()[0], slice(images))
    clean = torch.zeros(images, CLASSES, requires_grad=True)
    adversarial = torch.full((images, CLASSES), float(rank), requires_grad=True)
    method = set_up(NuAT(ramp=Constant()))
    loss = method.loss(Table(adversarial, clean), batch, Perturbation(torch.zeros_like(batch.x)))
    loss.total.backward()
    assert loss.terms["distance"].item() == pytest.approx(rank * (images * CLASSES) ** 0.5 / images, abs=1e-12)
    assert clean.grad.isfinite().all()
    assert adversarial.grad.isfinite().all()


# The weight ------------------------------------------------------------------------------------------------------------


def weights(method: Method, *epochs: int) -> list[float]:
    """lambda in these epochs of 100, out of the loss."""
    batch = batches()[0]
    method.setup(replace(harness.task(), epochs=100))
    found = []
    for epoch in epochs:
        none = Perturbation(torch.zeros_like(batch.x))
        loss = method.loss(Table(*predictions()), batch, none, method.phase(epoch, 0))
        found.append(((loss.total - loss.terms["natural"]) / loss.terms["distance"]).item())
    return found


def test_gat_s_weight_is_quadrupled_after_85_of_100_epochs() -> None:
    assert weights(GAT(), 0, 50, 84, 85, 86, 99) == pytest.approx([10, 10, 10, 40, 40, 40], abs=1e-12)


def test_nuat_s_weight_rises_linearly_over_90_of_100_epochs() -> None:
    assert weights(NuAT(), 0, 1, 45, 89, 90, 99) == pytest.approx([0, 0.05, 2.25, 4.45, 4.5, 4.5], abs=1e-12)
    assert weights(NuAT(steps=2), 20) == pytest.approx([1.0], abs=1e-12)


# Refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [GAT, NuAT])
def test_a_negative_weight_is_refused(make) -> None:
    with pytest.raises(BadInput, match=f"{make.__name__} needs a weight of at least 0, not -1"):
        make(weight=-1.0)


def test_a_ramp_that_makes_the_weight_negative_is_refused() -> None:
    with pytest.raises(BadInput, match="not multiply it by -1.0 as in epoch 2"):
        set_up(NuAT(ramp=MultiStep(("1/2",), gamma=-1.0)))


def test_a_step_size_that_is_not_positive_is_refused() -> None:
    with pytest.raises(BadInput, match="alpha must be positive, not 0"):
        NuAT(alpha=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_make_a_loss_that_is_not_and_no_error(bad: float) -> None:
    """The trainer ends such a run with a sentence."""
    method, model, batch = set_up(NuAT(ramp=Constant())), network(), batches()[0]
    perturbation = attacked(method, 1)
    with torch.no_grad():
        next(reversed(list(model.parameters()))).fill_(bad)
    assert not method.loss(model, batch, perturbation).total.isfinite()
    assert method.perturb(model, batch, method.phase(0, 1)).delta.shape == batch.x.shape


def test_an_attack_without_steps_is_refused() -> None:
    with pytest.raises(BadInput, match="at least 1 attack step, not 0"):
        NuAT(steps=0)


def test_the_attack_s_batchnorm_is_in_evaluation_mode_unless_told_otherwise() -> None:
    assert GAT() == GAT(weight=10.0, bn="eval")
    assert NuAT() == NuAT(weight=4.5, bn="eval", steps=1)
