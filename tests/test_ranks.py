"""With one process, sums over ranks are the value itself. Two processes: tests/methods/test_shared_batch.py."""

from __future__ import annotations

import torch

from sparring import ranks


def test_one_process_needs_nobody() -> None:
    value = torch.tensor([1.0, 2.0])
    assert ranks.count() == 1
    assert ranks.total(value) is value
    assert ranks.rows(value) is value
    ranks.average_([value])
    assert value.tolist() == [1.0, 2.0]
