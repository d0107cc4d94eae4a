"""TRADES against a transcription of its card, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.errors import BadInput
from sparring.methods import TRADES, Perturbation
from sparring.threat import Budget
from tests.methods.harness import train_on
from tests.methods.known_networks import Table
from tests.methods.reference import (
    CLASSES,
    EPS,
    Plain,
    assert_same,
    batches,
    divergence,
    learner,
    linf_pgd,
    network,
    set_up,
    smoothed_cross_entropy,
)

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize(("beta", "bn", "kept"), [(6.0, "eval", 1.0), (1.0, "train", 1.0), (6.0, "eval", 0.8)])
def test_trades_steps_as_its_card_says(beta: float, bn, kept: float) -> None:
    """From x + 1e-3 N(0, 1), unclipped, climb KL(p(x) || p(x')); then SGD on CE(x) + beta KL, clean forward first."""
    steps_as_its_card_says(beta, bn, kept, "clean-adversarial")


@pytest.mark.parametrize("forwards", ["clean-adversarial-clean", "adversarial-clean-clean"])
def test_the_released_step_makes_a_second_clean_forward(forwards) -> None:
    """Of the same logits; BatchNorm's statistics, and so the next attack in evaluation mode, see clean images twice."""
    steps_as_its_card_says(6.0, "eval", 1.0, forwards)


def steps_as_its_card_says(beta: float, bn, kept: float, forwards) -> None:
    attack = PGD(steps=3, alpha=0.04, start="normal", bn=bn)
    method = set_up(TRADES(beta, attack=attack, smoothing=(1 - kept) * CLASSES / (CLASSES - 1), forwards=forwards))
    subject, plain = learner(), Plain()
    for step, batch in enumerate(batches()[:3]):
        x, y = batch.x, batch.y
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        noise = 1e-3 * torch.randn(x.shape)
        with plain.mode(bn):
            clean = plain.network(x).detach()
            x_adv = linf_pgd(plain.network, x, noise, lambda z, clean=clean: divergence(clean, z).sum(), EPS, 0.04, 3)
        logits: dict[str, list[Tensor]] = {"clean": [], "adversarial": []}
        for which in forwards.split("-"):
            logits[which].append(plain.network(x if which == "clean" else x_adv))
        (adversarial,) = logits["adversarial"]
        clean = logits["clean"][-1]  # the released loss differentiates both, which say the same
        natural = smoothed_cross_entropy(clean, y, kept).mean()
        gap = divergence(logits["clean"][0], adversarial).mean()
        plain.descend(plain.gradients(natural + beta * gap))

        torch.testing.assert_close(loss.total, natural + beta * gap, rtol=0, atol=1e-10)
        torch.testing.assert_close(dict(loss.terms), {"natural": natural, "divergence": gap}, rtol=0, atol=1e-10)
        torch.testing.assert_close(loss.logits, adversarial, rtol=0, atol=1e-10)
    assert_same(subject, plain)


def test_gradients_flow_through_both_predictions() -> None:
    """d/dz = (p - onehot + beta p (log p/q - KL)) / B and d/dz' = beta (q - p) / B."""
    batch = batches()[0]
    size = len(batch.y)
    torch.manual_seed(0)
    clean, adversarial = (torch.randn(size, CLASSES, requires_grad=True) for _ in range(2))
    method = set_up(TRADES(beta=6.0))
    method.loss(Table(clean, adversarial), batch, Perturbation(torch.zeros_like(batch.x))).total.backward()

    p, q = clean.detach().softmax(1), adversarial.detach().softmax(1)
    one_hot = nn.functional.one_hot(batch.y, CLASSES)
    kl = (p * (p / q).log()).sum(1, keepdim=True)
    torch.testing.assert_close(clean.grad, (p - one_hot + 6 * p * ((p / q).log() - kl)) / size, rtol=0, atol=1e-12)
    torch.testing.assert_close(adversarial.grad, 6 * (q - p) / size, rtol=0, atol=1e-12)


def test_a_budget_replaces_radius_step_size_and_steps() -> None:
    method = set_up(TRADES(attack=PGD(steps=7, alpha=0.5, start="normal", bn="eval")))
    model, batch = network(), batches()[0]
    eps = torch.linspace(0.02, 0.3, len(batch.y))
    alpha = torch.linspace(0.2, 0.01, len(batch.y))
    steps = 1 + torch.arange(len(batch.y)) % 4
    torch.manual_seed(0)
    delta = method.perturb(model, batch, budget=Budget(eps, alpha, steps, rounds=4)).delta
    torch.manual_seed(0)
    noise = 1e-3 * torch.randn(batch.x.shape)
    model.eval()
    for i in range(len(batch.y)):
        x = batch.x[i : i + 1]
        clean = model(x).detach()
        alone = linf_pgd(
            model, x, noise[i : i + 1], lambda z, clean=clean: divergence(clean, z).sum(), eps[i], alpha[i], steps[i]
        )
        torch.testing.assert_close(x + delta[i : i + 1], alone, rtol=0, atol=1e-10)


def test_the_running_statistics_see_the_clean_and_the_adversarial_batch_once_each() -> None:
    method, subject = set_up(TRADES(attack=PGD(steps=3, alpha=0.04, start="normal", bn="eval"))), learner()
    train_on(method, subject, batches()[0])
    counts = [value for name, value in subject.network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts == [2] * 4


def test_at_zero_the_divergence_has_no_gradient_and_such_a_start_is_refused() -> None:
    model, batch = network().eval(), batches()[0]
    clean = model(batch.x).detach()
    x = batch.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(clean, model(x)).sum(), x)
    assert gradient.abs().max() < 1e-12
    with pytest.raises(BadInput, match="cannot start its attack at zero"):
        TRADES(attack=PGD(start="zero"))


def test_a_negative_beta_is_refused() -> None:
    with pytest.raises(BadInput, match="beta >= 0, not -1"):
        TRADES(beta=-1.0)


def test_the_defaults_are_the_paper_s() -> None:
    assert TRADES() == TRADES(beta=6.0, attack=PGD(steps=10, alpha=None, start="normal", bn="eval"), smoothing=0.0)
