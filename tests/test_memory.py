"""Rows stay with their samples, and reading never gives away the memory itself."""

from __future__ import annotations

import pytest
import torch

from sparring.memory import SampleMemory


def filled(samples: int = 5) -> SampleMemory:
    memory = SampleMemory(samples, (1, 2, 2))
    memory.write(torch.arange(samples), torch.arange(samples * 4.0).view(samples, 1, 2, 2))
    return memory


def test_a_new_memory_is_zero_in_single_precision() -> None:
    rows = SampleMemory(3, (2, 4, 5)).read(torch.tensor([2, 0]))
    assert rows.shape == (2, 2, 4, 5)
    assert rows.dtype == torch.float32
    assert not rows.any()


def test_rows_follow_their_index_in_any_order() -> None:
    memory = filled()
    index = torch.tensor([3, 0, 4])
    assert memory.read(index)[:, 0, 0, 0].tolist() == [12.0, 0.0, 16.0]
    memory.write(index, torch.tensor([-3.0, -1.0, -4.0])[:, None, None, None].expand(3, 1, 2, 2))
    assert memory.read(torch.arange(5))[:, 0, 1, 1].tolist() == [-1.0, 7.0, 11.0, -3.0, -4.0]


def test_reading_gives_a_copy() -> None:
    memory = filled()
    memory.read(torch.arange(5)).fill_(99)
    assert memory.read(torch.tensor([1])).flatten().tolist() == [4.0, 5.0, 6.0, 7.0]


def test_writing_keeps_a_copy() -> None:
    memory, values = filled(), torch.ones(1, 1, 2, 2)
    memory.write(torch.tensor([2]), values)
    values.fill_(99)
    assert memory.read(torch.tensor([2])).unique().tolist() == [1.0]


def test_other_precisions_are_stored_as_single() -> None:
    memory = SampleMemory(2, (1, 1, 1))
    memory.write(torch.tensor([0]), torch.full((1, 1, 1, 1), 0.5, dtype=torch.bfloat16))
    assert memory.read(torch.tensor([0])).item() == 0.5
    assert memory.rows.dtype == torch.float32


def test_a_checkpoint_gives_the_same_rows_back() -> None:
    memory, other = filled(), SampleMemory(5, (1, 2, 2))
    rows = other.rows
    state = {name: tensor.clone() for name, tensor in memory.state_dict().items()}
    other.load_state_dict(state)
    assert torch.equal(other.rows, memory.rows)
    assert other.rows is rows  # in place: a captured step keeps its address
    other.write(torch.tensor([0]), torch.full((1, 1, 2, 2), 7.0))
    assert not (state["rows"] == 7.0)[0].any()


@pytest.mark.parametrize("shape", [(4, 1, 2, 2), (5, 1, 2, 3), (1, 1, 2, 2)])
def test_a_checkpoint_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    memory = filled()
    before = memory.rows.clone()
    with pytest.raises(ValueError, match=r"memory of \(5, 1, 2, 2\) cannot take"):
        memory.load_state_dict({"rows": torch.ones(shape)})
    assert torch.equal(memory.rows, before)


def test_a_sample_that_is_not_there_is_an_error() -> None:
    with pytest.raises((IndexError, RuntimeError)):
        filled().read(torch.tensor([5]))
