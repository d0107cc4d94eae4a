"""Every loss against its definition, in double precision."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from sparring.errors import BadInput
from sparring.losses import boosted_cross_entropy, cross_entropy, kl_divergence, margin, smoothing_from_kept


def logits(batch: int = 6, classes: int = 5, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, classes, generator=generator, dtype=torch.float64)


def labels(batch: int = 6, classes: int = 5, seed: int = 1) -> Tensor:
    return torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))


def log_probabilities(row: list[float]) -> list[float]:
    total = math.log(math.fsum(math.exp(value) for value in row))
    return [value - total for value in row]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5556, 1.0])
def test_cross_entropy_is_taken_against_the_smoothed_target(smoothing: float) -> None:
    z, y = logits(), labels()
    expected = []
    for row, label in zip(z.tolist(), y.tolist(), strict=True):
        target = [(1 - smoothing) * (c == label) + smoothing / len(row) for c in range(len(row))]
        expected.append(-math.fsum(q * p for q, p in zip(target, log_probabilities(row), strict=True)))
    torch.testing.assert_close(cross_entropy(z, y, smoothing), torch.tensor(expected, dtype=torch.float64))


def test_margin_is_the_best_other_logit_minus_the_own() -> None:
    z, y = logits(40, 7), labels(40, 7)
    expected = [
        max(value for c, value in enumerate(row) if c != label) - row[label]
        for row, label in zip(z.tolist(), y.tolist(), strict=True)
    ]
    assert margin(z, y).tolist() == expected
    assert torch.equal(margin(z, y) > 0, z.argmax(1) != y)


def test_the_gradient_of_the_margin_is_one_up_and_one_down() -> None:
    z = logits(8, 4).requires_grad_()
    y = labels(8, 4)
    (gradient,) = torch.autograd.grad(margin(z, y).sum(), z)
    rival = z.detach().scatter(1, y[:, None], -math.inf).argmax(1)
    assert torch.equal(gradient, (F.one_hot(rival, 4) - F.one_hot(y, 4)).double())


def test_two_classes_have_a_margin() -> None:
    z = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    assert margin(z, torch.tensor([0, 1])).tolist() == [2.0, -2.0]


def test_divergence_follows_its_definition_and_its_direction() -> None:
    clean, adversarial = logits(seed=2), logits(seed=3)
    expected = []
    for p_row, q_row in zip(clean.tolist(), adversarial.tolist(), strict=True):
        p, q = log_probabilities(p_row), log_probabilities(q_row)
        expected.append(math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)))
    torch.testing.assert_close(kl_divergence(clean, adversarial), torch.tensor(expected, dtype=torch.float64))
    assert not torch.allclose(kl_divergence(clean, adversarial), kl_divergence(adversarial, clean))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 30))
def test_divergence_is_positive_except_between_equals(seed: int, scale: float) -> None:
    one, other = logits(seed=seed, scale=scale), logits(seed=seed + 1, scale=scale)
    assert (kl_divergence(one, other) > 0).all()
    torch.testing.assert_close(kl_divergence(one, one + 2.5), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)


def test_gradients_flow_through_both_sides_of_the_divergence() -> None:
    clean, adversarial = logits(3, 4, 4, 1.0).requires_grad_(), logits(3, 4, 5, 1.0).requires_grad_()
    assert torch.autograd.gradcheck(kl_divergence, (clean, adversarial))
    for gradient in torch.autograd.grad(kl_divergence(clean, adversarial).sum(), (clean, adversarial)):
        assert (gradient.abs().amax(1) > 1e-3).all()
    p, q = clean.softmax(1), adversarial.softmax(1)
    (gradient,) = torch.autograd.grad(kl_divergence(clean, adversarial).sum(), adversarial)
    torch.testing.assert_close(gradient, (q - p).detach())


def test_the_divergence_has_no_gradient_where_its_sides_agree() -> None:
    clean, adversarial = logits().requires_grad_(), logits().requires_grad_()
    for gradient in torch.autograd.grad(kl_divergence(clean, adversarial).sum(), (clean, adversarial)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-14, rtol=0)


def exact_boosted(row: list[float], label: int, padding: float = 0.0) -> float:
    """- log p_y - log(1 + padding - max_{j != y} p_j), with 500 digits."""
    with localcontext(prec=500):
        powers = [Decimal(value).exp() for value in row]
        p = [power / sum(powers) for power in powers]
        rival = max(value for c, value in enumerate(p) if c != label)
        return float(-p[label].ln() - (1 + Decimal(padding) - rival).ln())


@pytest.mark.parametrize("padding", [0.0, 1e-4, 0.5])
def test_boosted_cross_entropy_follows_its_definition(padding: float) -> None:
    z, y = logits(40, 7), labels(40, 7)
    expected = [exact_boosted(row, label, padding) for row, label in zip(z.tolist(), y.tolist(), strict=True)]
    assert boosted_cross_entropy(z, y, padding).tolist() == pytest.approx(expected, rel=1e-12)


def test_of_two_classes_the_boosted_cross_entropy_is_twice_the_cross_entropy() -> None:
    z, y = logits(9, 2), labels(9, 2)
    torch.testing.assert_close(boosted_cross_entropy(z, y), 2 * cross_entropy(z, y), rtol=1e-12, atol=0)


def test_the_gradient_of_the_boosted_cross_entropy() -> None:
    """2 p - e_y - s, with s the softmax over all classes but the rival; with padding from finite differences."""
    z, y = logits(8, 5).requires_grad_(), labels(8, 5)
    (gradient,) = torch.autograd.grad(boosted_cross_entropy(z, y).sum(), z)
    p, own = z.detach().softmax(1), F.one_hot(y, 5)
    rival = p.masked_fill(own.bool(), 0).argmax(1, keepdim=True)
    without = z.detach().scatter(1, rival, -math.inf).softmax(1)
    torch.testing.assert_close(gradient, 2 * p - own - without, rtol=0, atol=1e-12)
    for padding in (0.0, 1e-4):
        assert torch.autograd.gradcheck(lambda values, padding=padding: boosted_cross_entropy(values, y, padding), z)


@pytest.mark.parametrize("margin", [20.0, 90.0, 200.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_boosted_cross_entropy_of_a_certain_mistake_is_exact(margin: float, dtype: torch.dtype) -> None:
    """In float32 the probability of a mistake by 20 rounds to 1, and log(1 - p) to minus infinity."""
    z = torch.tensor([[margin, 0.0, -1.0], [margin, 0.0, 0.5]], dtype=dtype, requires_grad=True)
    y = torch.tensor([1, 2])
    if dtype == torch.float32:
        assert (1 - z.softmax(1).amax(1)).log().isneginf().all()
    value = boosted_cross_entropy(z, y)
    exact = [exact_boosted(row, label) for row, label in zip(z.tolist(), y.tolist(), strict=True)]
    assert value.tolist() == pytest.approx(exact, rel=4 * torch.finfo(dtype).eps)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    first, second = math.exp(-1) / (1 + math.exp(-1)), 1 / (1 + math.exp(0.5))
    expected = [[2.0, -1 - (1 - first), -first], [2.0, -second, -1 - (1 - second)]]
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=dtype), rtol=0, atol=1e-6)


def test_the_boosted_cross_entropy_of_a_certain_success_is_zero() -> None:
    z = torch.tensor([[200.0, 0.0, -1.0]], requires_grad=True)
    value = boosted_cross_entropy(z, torch.tensor([0]))
    assert value.item() == 0
    assert torch.autograd.grad(value.sum(), z)[0].abs().max() == 0


def test_padding_bounds_the_second_logarithm() -> None:
    """At - log(1e-4) for a certain mistake (released MART)."""
    z = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    value = boosted_cross_entropy(z, torch.tensor([1]), 1e-4)
    assert value.item() == pytest.approx(200 - math.log(1e-4), rel=1e-5)
    assert torch.autograd.grad(value.sum(), z)[0].isfinite().all()


@pytest.mark.parametrize("name", ["cross_entropy", "smoothed", "margin", "kl_divergence", "boosted", "padded"])
def test_a_samples_loss_and_gradient_do_not_depend_on_its_batch(name: str) -> None:
    loss = {
        "cross_entropy": cross_entropy,
        "smoothed": lambda z, y: cross_entropy(z, y, 0.3),
        "margin": margin,
        "kl_divergence": lambda z, y: kl_divergence(z.roll(1, 1), z),
        "boosted": boosted_cross_entropy,
        "padded": lambda z, y: boosted_cross_entropy(z, y, 1e-4),
    }[name]
    z, y = logits().requires_grad_(), labels()
    whole = loss(z, y)
    assert whole.shape == (6,)
    (gradient,) = torch.autograd.grad(whole.sum(), z)
    for i in range(6):
        alone = z[i : i + 1].detach().requires_grad_()
        value = loss(alone, y[i : i + 1])
        torch.testing.assert_close(value, whole[i : i + 1])
        torch.testing.assert_close(torch.autograd.grad(value.sum(), alone)[0][0], gradient[i])


def test_extreme_logits_give_finite_losses() -> None:
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    y = torch.tensor([1, 1])
    boosted = boosted_cross_entropy(z, y), boosted_cross_entropy(z, y, 1e-4)
    for value in (cross_entropy(z, y), cross_entropy(z, y, 0.1), margin(z, y), kl_divergence(z, z.flip(0)), *boosted):
        assert value.isfinite().all()
    assert cross_entropy(z, y).tolist() == [2e4, 0.0]


@pytest.mark.parametrize(
    ("kept", "classes", "smoothing"),
    [
        (0.5, 10, 0.5556),
        (0.6, 10, 0.4444),
        (0.6, 100, 0.4040),
        (0.5, 100, 0.5051),
        (0.8, 200, 0.2010),
        (0.5, 200, 0.5025),
        (1.0, 10, 0.0),
    ],
)
def test_smoothing_from_the_kept_mass(kept: float, classes: int, smoothing: float) -> None:
    assert smoothing_from_kept(kept, classes) == pytest.approx(smoothing, abs=5e-5)


@pytest.mark.parametrize("classes", [2, 10, 43, 100, 200, 1000])
@pytest.mark.parametrize("kept", [0.5, 0.6, 0.8, 1.0])
def test_the_kept_mass_lies_on_the_true_class(kept: float, classes: int) -> None:
    """PyTorch's target is read off the gradient at zero logits: 1 / C - q."""
    z, y = torch.zeros(1, classes, dtype=torch.float64, requires_grad=True), torch.tensor([1])
    smoothing = smoothing_from_kept(kept, classes)
    (gradient,) = torch.autograd.grad(F.cross_entropy(z, y, label_smoothing=smoothing), z)
    target = 1 / classes - gradient[0]
    assert target[1] == pytest.approx(kept, abs=1e-12)
    assert target[0] == pytest.approx((1 - kept) / (classes - 1), abs=1e-12)


@pytest.mark.parametrize(
    ("kept", "classes"), [(0.0, 10), (-0.1, 10), (1.01, 10), (math.nan, 10), (0.09, 10), (0.49, 2)]
)
def test_a_mass_that_cannot_be_kept_is_refused(kept: float, classes: int) -> None:
    """Below 1 / C the true class would be the least likely target."""
    with pytest.raises(BadInput, match=rf"kept on the true class must lie in \[1/{classes}, 1\], not {kept}"):
        smoothing_from_kept(kept, classes)


@pytest.mark.parametrize("classes", [2, 8, 200])
def test_an_even_target_is_the_most_that_can_be_smoothed(classes: int) -> None:
    assert smoothing_from_kept(1 / classes, classes) == pytest.approx(1)


@pytest.mark.parametrize("classes", [1, 0, -1])
def test_labels_need_two_classes_to_be_smoothed_over(classes: int) -> None:
    with pytest.raises(BadInput, match=f"at least 2 classes, not {classes}"):
        smoothing_from_kept(0.6, classes)


def test_shapes_are_checked_while_the_tests_run() -> None:
    with pytest.raises(TypeCheckError, match="parameter 'y'"):
        margin(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
