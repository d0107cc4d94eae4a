"""With one process, sums over ranks are the value itself. Two processes: tests/methods/test_shared_batch.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sparring import ranks


def test_one_process_needs_nobody() -> None:
    value = torch.tensor([1.0, 2.0])
    assert ranks.count() == 1
    assert ranks.total(value) is value
    assert ranks.rows(value) is value
    assert ranks.rows_with_gradient(value) is value
    ranks.average_([value])
    assert value.tolist() == [1.0, 2.0]


def whole_and_by_rank(
    loss: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch, processes: int = 2
) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Tensor]]]:
    """A loss of a batch's rows and its gradient by the weights that made them: in one process, and in each of several that
    hold equal parts of the batch, of which this one process plays all.
    """
    generator = torch.Generator().manual_seed(0)
    images, weight = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((6, 4), (4, 3)))

    def result(own: Tensor) -> tuple[Tensor, Tensor]:
        by = weight.clone().requires_grad_()
        value = loss(ranks.rows_with_gradient(own @ by))
        return value.detach(), torch.autograd.grad(value, by)[0]

    alone, parts = result(images), []
    with monkeypatch.context() as patch:
        patch.setattr(ranks, "count", lambda: processes)
        patch.setattr(ranks, "rows", lambda value: images @ weight)
        for rank, own in enumerate(images.chunk(processes)):
            patch.setattr(dist, "get_rank", lambda rank=rank: rank)
            parts.append(result(own))
    return alone, parts


LOSSES = {
    "nuclear norm": lambda rows: torch.linalg.matrix_norm(rows, "nuc") / len(rows),
    "variance": lambda rows: rows.var(0).sum(),
}


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_loss_of_the_whole_batch_has_its_gradient_once_the_ranks_are_averaged(loss, processes, monkeypatch) -> None:
    """Also one that is no mean over the batch's rows; its value is the same in every rank."""
    (value, gradient), parts = whole_and_by_rank(loss, monkeypatch, processes)
    for own, _ in parts:
        torch.testing.assert_close(own, value, rtol=0, atol=1e-12)
    averaged = torch.stack([own for _, own in parts]).mean(0)
    torch.testing.assert_close(averaged, gradient, rtol=0, atol=1e-12)
    assert (parts[0][1] - gradient).abs().max() > 0.01  # no rank has it alone
