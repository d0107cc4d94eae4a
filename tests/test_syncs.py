"""The guard against reading tensors notices."""

from __future__ import annotations

import pytest
import torch

from tests.syncs import NoHostSync


def test_reading_a_value_is_noticed() -> None:
    with NoHostSync(), pytest.raises(AssertionError, match="reads a tensor's value"):
        torch.ones(1).item()
    with NoHostSync(), pytest.raises(AssertionError, match="reads a tensor's value"):
        torch.ones(2).nonzero()


def test_a_shape_that_depends_on_values_is_noticed() -> None:
    mask = torch.tensor([True, False])
    with NoHostSync(), pytest.raises(AssertionError, match="boolean mask"):
        torch.ones(2)[mask]
    with NoHostSync(), pytest.raises(AssertionError, match="boolean mask"):
        torch.ones(2)[mask] = torch.zeros(1)


def test_everything_else_is_counted_and_let_through() -> None:
    with NoHostSync() as guard:
        assert (torch.ones(2) + 1).shape == (2,)
    assert guard.calls == 2
