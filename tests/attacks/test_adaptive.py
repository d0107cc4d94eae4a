"""BPDA and EOT: whose gradient they have, and that attacks succeed through them where they fail without."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.attacks import PGD, Attack, attackable
from sparring.attacks.adaptive import BPDA, EOT
from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.threat import Threat
from tests.attacks.harness import SHAPE, pictures, seeded, streams


def curved() -> nn.Module:
    """Smooth and far from linear: 24 pixels, 4 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Flatten(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def gradient_of(function, x: Tensor, weights: Tensor) -> Tensor:
    """Of the weighted sum of what the function returns."""
    point = x.clone().requires_grad_()
    return torch.autograd.grad((function(point) * weights).sum(), point)[0]


def rounded(x: Tensor) -> Tensor:
    return (x * 4).round() / 4


def squashed(x: Tensor) -> Tensor:
    return torch.sigmoid(6 * x - 3)


# BPDA ------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from([torch.float32, torch.float64]))
def test_the_value_is_exactly_the_transformation_s_and_the_gradient_the_substitute_s(seed: int, dtype) -> None:
    x = torch.randn(5, *SHAPE, generator=seeded(seed), dtype=dtype) * 100
    weights = torch.randn(5, *SHAPE, generator=seeded(seed + 1), dtype=dtype)
    for substitute in (squashed, nn.Conv2d(2, 2, 3, padding=1, dtype=dtype).requires_grad_(False)):
        wrapped = BPDA(rounded, substitute)
        assert torch.equal(wrapped(x), rounded(x))
        assert torch.equal(gradient_of(wrapped, x, weights), gradient_of(substitute, x, weights))
    plain = BPDA(rounded)
    assert torch.equal(plain(x), rounded(x))
    assert torch.equal(gradient_of(plain, x, weights), weights)


def test_the_network_behind_is_differentiated_where_it_really_is() -> None:
    """At the transformed image; only the transformation's own derivative is replaced."""
    model, x, weights = curved(), pictures(6), torch.randn(6, 4, generator=seeded(1), dtype=torch.float64)
    behind = gradient_of(model, rounded(x), weights)
    through = gradient_of(nn.Sequential(BPDA(rounded, squashed), model), x, weights)
    torch.testing.assert_close(through, behind * 6 * squashed(x) * (1 - squashed(x)), rtol=1e-12, atol=1e-14)


def test_a_transformation_that_cannot_be_differentiated_at_all_is_wrapped() -> None:
    """One that leaves PyTorch, and would raise an error under autograd."""
    wrapped = BPDA(lambda x: torch.from_numpy(x.numpy().round(1)))
    x = pictures(3).requires_grad_()
    wrapped(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_a_transformation_may_change_the_shape_if_its_substitute_does_too() -> None:
    halved = BPDA(lambda x: rounded(x[..., ::2]), lambda x: x[..., ::2])
    assert halved(pictures(2)).shape == (2, 2, 3, 2)
    with pytest.raises(BadInput, match=r"shape \(2, 2, 3, 2\), its substitute \(2, 2, 3, 4\)"):
        BPDA(lambda x: x[..., ::2])(pictures(2))
    with pytest.raises(BadInput, match="give a substitute of the same shape"):
        BPDA(rounded, lambda x: x[:1])(pictures(2))  # which would be broadcast


def test_parts_that_are_modules_are_frozen_and_put_into_evaluation_mode_with_the_network() -> None:
    wrapped = BPDA(nn.Dropout(0.5), nn.Conv2d(2, 2, 1))
    with attackable(wrapped, "eval"):
        assert not wrapped.transform.training
        assert not any(parameter.requires_grad for parameter in wrapped.parameters())
    assert len(list(wrapped.parameters())) == 2


def _accuracy(attack: Attack, attacked: nn.Module, verifier: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> float:
    adversarial = attack(attacked, x, y, threat, generator=streams(len(x)))
    return (verifier(adversarial).argmax(1) == y).double().mean().item()


class Rounding(nn.Module):
    """Without a gradient but zero."""

    def forward(self, x: Tensor) -> Tensor:
        return rounded(x)


def test_an_attack_fails_before_a_rounded_input_and_succeeds_through_bpda() -> None:
    x, threat, attack = pictures(200), Threat("Linf", "0.15"), PGD(steps=30, start="zero")
    masked = nn.Sequential(Rounding(), curved())
    seen_through = nn.Sequential(BPDA(Rounding()), masked[1])
    y = masked(x).argmax(1)
    assert _accuracy(attack, masked, masked, x, y, threat) == 1
    broken = _accuracy(attack, seen_through, masked, x, y, threat)
    undefended = _accuracy(attack, masked[1], masked[1], x, masked[1](x).argmax(1), threat)
    assert broken < 0.5
    assert broken < undefended + 0.1


# EOT -------------------------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """A network whose input is disturbed anew in every pass, also in evaluation mode; remembers the noise."""

    def __init__(self, model: nn.Module, size: float) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.noise: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.noise.append(self.size * torch.randn_like(x))
        return self.model(x + self.noise[-1])


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_logits_and_gradients_are_the_means_over_the_draws(samples: int) -> None:
    """Also of a margin between two given classes, which is linear in the logits: AutoAttack's mean gradient."""
    x, weights = pictures(5), torch.tensor([0.0, 1.0, -1.0, 0.0]).double()
    noisy = Noisy(curved(), 0.3)
    gradient = gradient_of(EOT(noisy, samples), x, weights)
    assert len(noisy.noise) == samples
    single = [gradient_of(noisy.model, x + noise, weights) for noise in noisy.noise]
    torch.testing.assert_close(gradient, torch.stack(single).mean(0), rtol=1e-12, atol=1e-14)

    noisy.noise.clear()
    logits = EOT(noisy, samples)(x)
    single = [noisy.model(x + noise) for noise in noisy.noise]
    torch.testing.assert_close(logits, torch.stack(single).mean(0), rtol=1e-12, atol=1e-14)
    if samples > 1:
        assert (single[0] - single[1]).abs().max() > 1e-3


def test_objectives_that_are_not_linear_are_those_of_the_mean_logits() -> None:
    x, y = pictures(5), torch.arange(5) % 4
    noisy = Noisy(curved(), 0.3)
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(EOT(noisy, 4)(point), y).sum(), point)
    again = x.clone().requires_grad_()
    mean = sum(noisy.model(again + noise) for noise in noisy.noise) / 4
    (expected,) = torch.autograd.grad(cross_entropy(mean, y).sum(), again)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


class Dazzling(nn.Module):
    """A network with a random linear function of the pixels added to each logit, which is zero in expectation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + x.flatten(1) @ torch.randn(24, 4, dtype=x.dtype)


def test_an_attack_on_the_mean_breaks_what_one_on_single_draws_does_not() -> None:
    x, threat, model = pictures(200), Threat("Linf", "0.12"), curved()
    y = model(x).argmax(1)
    pgd = PGD(steps=5, start="zero")

    def left(attacked: nn.Module) -> float:
        """Measured by what the network is in expectation."""
        delta = pgd.run(attacked, x, pgd.objective_for(y), threat)
        return (model(x + delta).argmax(1) == y).double().mean().item()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        single, mean = left(Dazzling(model)), left(EOT(Dazzling(model), 1500))
    assert mean < left(model) + 0.05
    assert single > mean + 0.2


def test_fewer_than_one_sample_is_refused() -> None:
    for samples in (0, -3):
        with pytest.raises(BadInput, match=f"at least 1 sample, not {samples}"):
            EOT(curved(), samples)
