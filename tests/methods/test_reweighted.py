"""MART and GAIRAT against transcriptions of their cards, in float64, and what their weights must do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.data import Batch
from sparring.errors import BadInput
from sparring.methods import FAT, GAIRAT, LAS, MART, AdversarialTraining, Perturbation
from sparring.methods.reweighted import CountedPerturbation
from sparring.threat import Threat
from tests.methods import harness
from tests.methods.harness import part, train_on
from tests.methods.known_networks import Table
from tests.methods.mart import mart, mart_example, mart_terms
from tests.methods.reference import (
    CLASSES,
    EPS,
    Plain,
    assert_same,
    batches,
    divergence,
    experienced,
    knowledge,
    learner,
    network,
    pixel_gradient,
    set_up,
    smoothed_cross_entropy,
    uniform,
)

pytestmark = pytest.mark.usefixtures("double_precision")


# MART ------------------------------------------------------------------------------------------------------------------


def released_mart_terms(model: nn.Module, batch: Batch, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With the constants 1.0001, 1.0000001 and the 1e-12 that the released code adds in its three logarithms."""
    clean, adversarial = model(batch.x), model(x_adv)
    p, q = clean.softmax(1), adversarial.softmax(1)
    own = nn.functional.one_hot(batch.y, CLASSES).bool()
    rest = (1.0001 - q.masked_fill(own, 0).amax(1) + 1e-12).log()
    boosted = (smoothed_cross_entropy(adversarial, batch.y) - rest).mean()
    gap = (p * (p.log() - (q + 1e-12).log())).sum(1) * (1.0000001 - p[own])
    return adversarial, boosted, gap.mean()


@pytest.mark.parametrize(
    ("beta", "padding", "terms"),
    [(5.0, False, mart_terms), (1.5, False, mart_terms), (0.0, False, mart_terms), (5.0, True, released_mart_terms)],
    ids=["beta 5", "beta 1.5", "beta 0", "released constants"],
)
def test_mart_steps_as_its_card_says(beta: float, padding: bool, terms) -> None:
    """SGD on BCE(q) + beta mean(KL(p || q) (1 - p_y)), clean forward first, everything differentiated."""
    method = set_up(replace(mart(), beta=beta, padding=padding))
    subject, plain = learner(), Plain()
    for step, batch in enumerate(batches()):
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        adversarial, boosted, gap = terms(plain.network, batch, mart_example(plain, batch))
        plain.descend(plain.gradients(boosted + beta * gap))

        torch.testing.assert_close(loss.total, boosted + beta * gap, rtol=0, atol=1e-10)
        torch.testing.assert_close(dict(loss.terms), {"boosted": boosted, "divergence": gap}, rtol=0, atol=1e-10)
        torch.testing.assert_close(loss.logits, adversarial, rtol=0, atol=1e-10)
    assert_same(subject, plain)


def test_the_1e_12_in_the_logarithms_of_the_released_code_is_left_out_and_matters_less_than_1e_10() -> None:
    """Up to 1e-12 / 1e-4 in BCE's logarithm, so 1e-8 at the very worst, where a mistake is certain; here it is far less.

    Its other constants do matter.
    """
    _, plain = experienced()
    batch = batches()[0]
    x_adv = mart_example(plain, batch)
    one, other, padded = (
        torch.stack(terms[1:])
        for terms in (
            mart_terms(plain.network, batch, x_adv),
            released_mart_terms(plain.network, batch, x_adv),
            _with_two_constants(plain.network, batch, x_adv),
        )
    )
    assert 1e-14 < (padded - other).abs().max() < 1e-10
    assert (one - other).abs().min() > 1e-9


def _with_two_constants(model: nn.Module, batch: Batch, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    loss = set_up(MART(padding=True)).loss(model, batch, Perturbation(x_adv - batch.x))
    return loss.logits, loss.terms["boosted"], loss.terms["divergence"]


def test_the_constants_keep_the_logarithm_of_a_certain_mistake_below_that_of_ten_thousand() -> None:
    batch = part(batches()[0], slice(4))
    certain = torch.full((4, CLASSES), -400.0).scatter(1, (batch.y[:, None] + 1) % CLASSES, 0.0)
    found = [
        set_up(MART(padding=padding)).loss(Table(certain, certain), batch, _none(batch)).terms["boosted"].item()
        for padding in (False, True)
    ]
    assert found == pytest.approx([400 + 400 - torch.tensor(9.0).log().item(), 400 - torch.tensor(1e-4).log().item()])


def test_gradients_flow_through_the_weight_and_both_predictions_of_mart() -> None:
    """d/dz = beta / B [(1 - p_y) p (log p/q - KL) - KL p_y (e_y - p)], d/dz' = [2 q - e_y - s + beta (1 - p_y) (q - p)] / B.

    s is the softmax over all classes but the rival.
    """
    batch = batches()[0]
    size = len(batch.y)
    torch.manual_seed(0)
    clean, adversarial = (torch.randn(size, CLASSES, requires_grad=True) for _ in range(2))
    set_up(MART(beta=5.0)).loss(Table(clean, adversarial), batch, _none(batch)).total.backward()

    p, q = clean.detach().softmax(1), adversarial.detach().softmax(1)
    own = nn.functional.one_hot(batch.y, CLASSES)
    sure = p[own.bool()][:, None]
    kl = (p * (p / q).log()).sum(1, keepdim=True)
    through_kl = (1 - sure) * p * ((p / q).log() - kl)
    through_the_weight = -kl * sure * (own - p)
    torch.testing.assert_close(clean.grad, 5 * (through_kl + through_the_weight) / size, rtol=0, atol=1e-12)
    assert through_the_weight.abs().amax() > 0.01

    rival = q.masked_fill(own.bool(), 0).argmax(1, keepdim=True)
    without = adversarial.detach().scatter(1, rival, -torch.inf).softmax(1)
    expected = (2 * q - own - without + 5 * (1 - sure) * (q - p)) / size
    torch.testing.assert_close(adversarial.grad, expected, rtol=0, atol=1e-12)


def test_a_weight_of_the_perturbation_replaces_mart_s_beta_image_by_image() -> None:
    method, model, batch = set_up(mart()), network(), batches()[0]
    perturbation = method.perturb(model, batch)
    weight = torch.linspace(0, 9, len(batch.y))
    found = method.loss(model, batch, replace(perturbation, weight=weight)).total
    clean, adversarial = model(batch.x), model(batch.x + perturbation.delta)
    doubt = 1 - clean.softmax(1)[torch.arange(len(batch.y)), batch.y]
    values = doubt * divergence(clean, adversarial)
    boosted = method.loss(model, batch, perturbation).terms["boosted"]
    torch.testing.assert_close(found, boosted + (weight * values).mean(), rtol=0, atol=1e-10)
    same = method.loss(model, batch, replace(perturbation, weight=torch.full_like(weight, method.beta))).total
    torch.testing.assert_close(same, method.loss(model, batch, perturbation).total, rtol=0, atol=1e-12)
    assert method.traits().accepts_weight


def test_mart_learns_nothing_from_the_divergence_of_an_image_that_it_is_sure_of() -> None:
    batch = part(batches()[0], slice(2))
    own = nn.functional.one_hot(batch.y, CLASSES)
    clean = torch.stack([60.0 * own[0], -60.0 * own[1]])  # certainly right, certainly wrong
    clean, adversarial = clean.double().requires_grad_(), torch.zeros(2, CLASSES, requires_grad=True)
    (set_up(MART(beta=1e6)).loss(Table(clean, adversarial), batch, _none(batch)).total).backward()
    assert clean.grad[0].abs().max() < 1e-12
    assert adversarial.grad[0].abs().max() < 1
    assert adversarial.grad[1].abs().max() > 1e3


def test_mart_s_loss_of_a_certain_mistake_is_finite_in_float32() -> None:
    """BCE of a margin of 200, whose probability rounds to 1: the formula as written is infinite."""
    batch = part(batches()[0], slice(3))
    batch = replace(batch, x=batch.x.float())
    logits = torch.zeros(3, CLASSES, dtype=torch.float32).scatter(1, (batch.y[:, None] + 1) % CLASSES, 200.0)
    logits.requires_grad_()
    assert torch.isinf((1 - logits.softmax(1).amax(1)).log()).all()
    loss = set_up(MART()).loss(Table(logits.detach(), logits), batch, _none(batch))
    assert loss.total.item() == pytest.approx(400 - torch.tensor(9.0).log().item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss.total, logits)
    assert gradient.isfinite().all()
    assert (gradient.abs().amax(1) > 0.1).all()


def test_a_negative_beta_of_mart_is_refused() -> None:
    with pytest.raises(BadInput, match="beta >= 0, not -1"):
        MART(beta=-1)


def test_mart_s_defaults_are_the_paper_s() -> None:
    assert MART() == MART(PGD(steps=10, alpha=None, start="normal", bn="eval"), beta=5.0, padding=False)


# GAIRAT ----------------------------------------------------------------------------------------------------------------

K = 5


def gairat(begin: str = "1/2", shift: float = -1.0) -> GAIRAT:
    return GAIRAT(PGD(steps=K, alpha=0.03, bn="eval"), shift=shift, begin=begin)


def ga_pgd(model: nn.Module, batch: Batch, start: Tensor) -> tuple[Tensor, list[int]]:
    """Iterates and how many of the first K, the start among them, are classified correctly: image by image."""
    found, kappa = [], []
    for x, y, delta in zip(batch.x[:, None], batch.y[:, None], start[:, None], strict=True):
        x_adv, count = x + delta, 0
        for _ in range(K):
            count += int(model(x_adv).argmax(1) == y)
            gradient = pixel_gradient(model, x_adv, lambda z, y=y: smoothed_cross_entropy(z, y).sum())
            x_adv = torch.minimum(torch.maximum(x_adv + 0.03 * gradient.sign(), x - EPS), x + EPS).clamp(0, 1)
        found.append(x_adv)
        kappa.append(count)
    return torch.cat(found), kappa


@pytest.mark.parametrize("shift", [-1.0, 0.5])
def test_gairat_steps_as_its_card_says(shift: float) -> None:
    """AT in epochs 0 and 1 of 4, and from epoch 2 on w = (1 + tanh(lambda + 5 (1 - 2 kappa / K))) / 2 over its mean."""
    method = set_up(gairat(shift=shift))
    subject, plain = experienced()
    seen: set[int] = set()
    for step, epoch in enumerate((0, 1, 2, 2, 3)):
        batch = batches(epoch)[step % 4]
        torch.manual_seed(step)
        loss = train_on(method, subject, batch, epoch).loss

        torch.manual_seed(step)
        start = uniform(batch.x, EPS)
        with plain.mode("eval"):
            x_adv, kappa = ga_pgd(plain.network, batch, start)
        seen |= set(kappa)
        weight = (1 + (shift + 5 * (1 - 2 * torch.tensor(kappa).double() / K)).tanh()) / 2
        logits = plain.network(x_adv)
        values = smoothed_cross_entropy(logits, batch.y)
        expected = values.mean() if epoch < 2 else (weight / weight.mean() * values).mean()
        plain.descend(plain.gradients(expected))

        torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(loss.logits, logits, rtol=0, atol=1e-10)
    assert_same(subject, plain)
    assert len(seen) > 3


def test_before_it_begins_gairat_is_adversarial_training_bit_for_bit() -> None:
    method, plain = set_up(gairat("1")), set_up(AdversarialTraining(gairat().attack))
    one, other = learner(), learner()
    for step, batch in enumerate(batches()):
        for each, trained in ((method, one), (plain, other)):
            torch.manual_seed(step)
            train_on(each, trained, batch)
    assert harness.identical(one.state_dict(), other.state_dict())


@pytest.mark.parametrize(("begin", "first"), [("60/120", 60), ("30/100", 36), ("0", 0), ("1", 120)])
def test_gairat_begins_at_its_fraction_of_the_run(begin: str, first: int) -> None:
    method = gairat(begin)
    method.setup(replace(harness.task(), epochs=120))
    batch = part(batches()[0], slice(2))
    perturbation = CountedPerturbation(torch.zeros_like(batch.x), kappa=torch.tensor([0.0, K]))
    model = network().eval()
    even = smoothed_cross_entropy(model(batch.x), batch.y).mean()
    weighted = []
    for epoch in range(120):
        if (method.loss(model, batch, perturbation, method.phase(epoch, 0)).total - even).abs() > 1e-3:
            weighted.append(epoch)
    assert weighted == list(range(first, 120))


def test_gairat_s_weights_fall_with_kappa_and_average_to_one() -> None:
    method = set_up(gairat())
    kappa = torch.arange(K + 1).double()
    weights = method.weights(kappa)
    expected = [(1 + torch.tanh(torch.tensor(-1 + 5 * (1 - 2 * k / K))).item()) / 2 for k in range(K + 1)]
    assert weights.tolist() == pytest.approx([w / (sum(expected) / (K + 1)) for w in expected], rel=1e-9)
    assert (weights.diff() < 0).all()
    assert weights.mean().item() == pytest.approx(1)


def test_a_larger_shift_flattens_gairat_s_weights() -> None:
    kappa = torch.arange(K + 1).double()
    spreads = [set_up(gairat(shift=shift)).weights(kappa).std().item() for shift in (-1.0, 2.0, 4.0, 12.0)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 0.01


@pytest.mark.parametrize("shift", [-1.0, -15.0])
def test_a_batch_that_no_step_fools_counts_evenly_in_float32(shift: float) -> None:
    """1 + tanh cancels there: with a shift of -15 it is zero for every image, and 0 / 0 their share."""
    method = set_up(gairat(shift=shift))
    kappa = torch.full((16,), float(K), dtype=torch.float32)
    assert method.weights(kappa).tolist() == pytest.approx([1.0] * 16)
    if shift < -10:
        assert (1 + (shift + 5 * (1 - 2 * kappa / K)).tanh()).abs().max() == 0


def test_images_with_more_margin_hold_out_longer_against_the_attack() -> None:
    """On real digits after clean training: the rank correlation of the clean margin p_y - max p_j and kappa."""
    method = set_up(gairat(), Threat("Linf", 0.1))
    model = network()
    model.load_state_dict(knowledge(8))
    margins, kappas = [], []
    for batch in batches():
        torch.manual_seed(0)
        kappas.append(method.perturb(model, batch).kappa)
        logits = model.eval()(batch.x)
        own = nn.functional.one_hot(batch.y, CLASSES).bool()
        margins.append((logits[own] - logits.masked_fill(own, -torch.inf).amax(1)).detach())
    margin, kappa = torch.cat(margins), torch.cat(kappas)
    assert len(kappa.unique()) > 3
    ranks = torch.stack([margin.argsort().argsort().double(), _midranks(kappa)])
    assert torch.corrcoef(ranks)[0, 1] > 0.7
    assert margin[kappa == K].mean() > margin[(kappa > 0) & (kappa < K)].mean() > margin[kappa == 0].mean()


def _midranks(values: Tensor) -> Tensor:
    return ((values[:, None] > values).sum(1) + (values[:, None] >= values).sum(1)).double() / 2


def test_kappa_needs_attacks_of_one_length() -> None:
    assert not set_up(gairat()).traits().accepts_budget
    for wrapper in (FAT(gairat()), LAS(gairat())):
        with pytest.raises(BadInput, match="GAIRAT"):
            wrapper.setup(harness.task())


@pytest.mark.parametrize("begin", ["2", "-1/2"])
def test_a_beginning_outside_the_run_is_refused(begin: str) -> None:
    with pytest.raises(BadInput, match=f"begin is a fraction of the run in .0, 1., not {begin}"):
        GAIRAT(begin=begin)


def test_gairat_s_defaults_are_the_paper_s() -> None:
    assert GAIRAT() == GAIRAT(PGD(steps=10, alpha=None, start="uniform", bn="eval"), shift=-1.0, begin="60/120")


def _none(batch: Batch) -> Perturbation:
    return Perturbation(torch.zeros_like(batch.x))


@pytest.mark.parametrize("shift", [-21, 21])
def test_a_shift_that_leaves_no_weights_in_float32_is_refused(shift: float) -> None:
    with pytest.raises(BadInput, match="shift must lie in .-20, 20., not"):
        GAIRAT(shift=shift)
