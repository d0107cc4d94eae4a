"""What searches share: state, and the counted that asks the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import CountedModel, SearchState, initial_fields
from sparring.attacks.search import ranked


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 2 * 3, 5)).requires_grad_(False)


def pictures(count: int = 6) -> Tensor:
    return torch.rand(count, 2, 4, 5, generator=torch.Generator().manual_seed(1))


def state(count: int) -> SearchState:
    x = pictures(count)
    return SearchState(**initial_fields(x, torch.arange(count), x + 0.1))


def test_rows_and_joined_are_inverse() -> None:
    whole = state(6)
    parts = [whole.rows(torch.tensor([0, 1])), whole.rows(torch.tensor([2, 3, 4, 5]))]
    again = SearchState.joined(parts).tensors()
    assert all(torch.equal(value, again[name]) for name, value in whole.tensors().items())
    assert SearchState.joined(parts[:1]) is parts[0]


def test_nothing_is_found_to_begin_with() -> None:
    begun = state(3)
    assert not begun.found.any()
    assert (begun.step == 0).all()


def test_the_ranks_of_classes_count_from_the_prediction() -> None:
    clean = torch.tensor([[0.1, 0.9, 0.5], [3.0, 1.0, 2.0]])
    assert [ranked(clean, rank).tolist() for rank in range(3)] == [[1, 0], [2, 2], [0, 1]]


def test_a_counted_model_counts_images() -> None:
    counted, x = CountedModel(network()), pictures()
    counted.logits(x)
    counted.gradient(x, lambda logits: logits[:, 0])
    assert (counted.forwards, counted.backwards) == (12, 6)
    counted.jacobian(x)
    assert (counted.forwards, counted.backwards) == (18, 36)


def test_the_jacobian_is_the_gradients_of_all_logits() -> None:
    counted, x = CountedModel(network()), pictures()
    gradients, logits = counted.jacobian(x)
    assert torch.equal(logits, network()(x))
    for label in range(5):
        expected, _ = counted.gradient(x, lambda logits, label=label: logits[:, label])
        torch.testing.assert_close(gradients[:, label], expected)
    assert not gradients.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_answer_in_single_precision_and_roughly_alike(dtype: torch.dtype) -> None:
    x, exact = pictures(), CountedModel(network())
    low = CountedModel(network(), dtype, torch.channels_last)
    assert low.logits(x).dtype == torch.float32
    torch.testing.assert_close(low.logits(x), exact.logits(x), rtol=0, atol=0.02)
    assert not torch.equal(low.logits(x), exact.logits(x))
    for ours, theirs in (
        (low.gradient(x, lambda z: z[:, 1])[0], exact.gradient(x, lambda z: z[:, 1])[0]),
        (low.jacobian(x)[0], exact.jacobian(x)[0]),
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05 * float(theirs.abs().max()))


def test_gradients_below_the_least_number_of_fp16_survive() -> None:
    """A network so sure that its loss changes by less than 1e-8 for each pixel."""
    x = pictures()
    exact, low = CountedModel(network()), CountedModel(network(), torch.float16)
    small = lambda logits: 1e-7 * logits[:, 0]  # noqa: E731
    expected, _ = exact.gradient(x, small)
    assert expected.abs().max() < 6e-8
    found, _ = low.gradient(x, small)
    strong = expected.abs() > 0.3 * expected.abs().max()
    assert torch.equal(found.sign()[strong], expected.sign()[strong])


def test_gradients_above_the_greatest_number_of_fp16_survive() -> None:
    x = pictures()
    exact, low = CountedModel(network()), CountedModel(network(), torch.float16)
    steep = lambda logits: 1e9 * logits[:, 0]  # noqa: E731
    found, _ = low.gradient(x, steep)
    expected, _ = exact.gradient(x, steep)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
