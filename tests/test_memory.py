"""Rows stay with their samples, and reading never gives away the memory itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sparring.errors import BadInput
from sparring.memory import Kind, SampleMemory

DTYPES: dict[Kind, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}
every_kind = pytest.mark.parametrize("kind", DTYPES)


def filled(samples: int = 5, kind: Kind = "fp32") -> SampleMemory:
    memory = SampleMemory(samples, (1, 2, 2), kind=kind)
    memory.write(torch.arange(samples), torch.arange(samples * 4.0).view(samples, 1, 2, 2))
    return memory


@every_kind
def test_a_new_memory_is_zero_and_reads_in_single_precision(kind: Kind) -> None:
    memory = SampleMemory(3, (2, 4, 5), kind=kind, scale=255.0)
    rows = memory.read(torch.tensor([2, 0]))
    assert rows.shape == (2, 2, 4, 5)
    assert rows.dtype == torch.float32
    assert not rows.any()
    assert memory.rows.dtype == DTYPES[kind]


@every_kind
def test_rows_follow_their_index_in_any_order(kind: Kind) -> None:
    memory = filled(kind=kind)
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


def test_int8_holds_every_whole_pixel_level_exactly() -> None:
    levels = (torch.arange(-127, 128) / torch.tensor(255.0)).view(-1, 1, 1, 1)
    memory = SampleMemory(255, (1, 1, 1), kind="int8", scale=255.0)
    memory.write(torch.arange(255), levels)
    assert torch.equal(memory.read(torch.arange(255)), levels)


def test_int8_rounds_to_the_nearest_level_and_never_wraps_around() -> None:
    memory = SampleMemory(6, (1, 1, 1), kind="int8", scale=255.0)
    levels = torch.tensor([3.4, 3.6, -3.4, -3.6, 300.0, -300.0]).view(-1, 1, 1, 1)
    memory.write(torch.arange(6), levels / 255)
    assert (255 * memory.read(torch.arange(6))).flatten().tolist() == pytest.approx([3, 4, -3, -4, 127, -127])


def test_fp16_keeps_its_relative_precision_where_values_are_scaled_to_its_range() -> None:
    """The elements of the released momentum, g / ||g||_1 over a batch of 128 CIFAR images; unscaled, they are subnormal."""
    elements = 128 * 3 * 32 * 32
    magnitude = 10 ** torch.linspace(-3, 3, 1000).view(-1, 1, 1, 1)
    values = magnitude * torch.tensor([1.0, -1.0]).repeat(500).view(-1, 1, 1, 1) / elements
    errors = []
    for scale in (float(elements), 1.0):
        memory = SampleMemory(1000, (1, 1, 1), kind="fp16", scale=scale)
        memory.write(torch.arange(1000), values)
        errors.append((memory.read(torch.arange(1000)) / values - 1).abs().max().item())
    assert errors[0] <= 2**-11 + 1e-6
    assert errors[1] == 1  # the smallest are lost altogether


def test_fp16_never_becomes_infinite() -> None:
    memory = SampleMemory(2, (1, 1, 1), kind="fp16", scale=1e6)
    memory.write(torch.arange(2), torch.tensor([1.0, -1.0]).view(-1, 1, 1, 1))
    assert memory.read(torch.arange(2)).flatten().tolist() == pytest.approx([0.065504, -0.065504])


@every_kind
@pytest.mark.parametrize("scale", [1.0, 255.0, 393216.0])
def test_what_was_read_can_be_written_back_without_a_change(kind: Kind, scale: float) -> None:
    """Memories on a canvas are read, written on in part, and written."""
    memory = SampleMemory(50, (3, 4, 4), kind=kind, scale=scale)
    generator = torch.Generator().manual_seed(0)
    memory.write(torch.arange(50), 50 * torch.randn((50, 3, 4, 4), generator=generator) / scale)
    before = memory.rows.clone()
    memory.write(torch.arange(50), memory.read(torch.arange(50)))
    assert torch.equal(memory.rows, before)
    assert before.unique().numel() > 100


@every_kind
def test_a_memory_is_filled_some_rows_at_a_time(kind: Kind) -> None:
    memory, seen = SampleMemory(2500, (1, 1, 2), kind=kind, scale=255.0), []

    def draw(like: Tensor) -> Tensor:
        assert like.dtype == torch.float32
        seen.append(len(like))
        return torch.full_like(like, len(seen) / 255)

    memory.fill(draw)
    assert seen == [1024, 1024, 452]
    levels = torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(torch.tensor(seen))
    torch.testing.assert_close(255 * memory.read(torch.arange(2500))[:, 0, 0, 1], levels)


@every_kind
def test_a_checkpoint_gives_the_same_rows_back(kind: Kind) -> None:
    memory, other = filled(kind=kind), SampleMemory(5, (1, 2, 2), kind=kind)
    rows = other.rows
    state = {name: tensor.clone() for name, tensor in memory.state_dict().items()}
    assert state["rows"].dtype == DTYPES[kind]
    other.load_state_dict(state)
    assert torch.equal(other.rows, memory.rows)
    assert other.rows is rows  # in place: a captured step keeps its address
    other.write(torch.tensor([0]), torch.full((1, 1, 2, 2), 7.0))
    assert not (state["rows"] == 7.0)[0].any()


@pytest.mark.parametrize("shape", [(4, 1, 2, 2), (5, 1, 2, 3), (1, 1, 2, 2)])
def test_a_checkpoint_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    memory = filled()
    before = memory.rows.clone()
    with pytest.raises(BadInput, match=r"memory of \(5, 1, 2, 2\) float32 cannot take .* its own images"):
        memory.load_state_dict({"rows": torch.ones(shape)})
    assert torch.equal(memory.rows, before)


@pytest.mark.parametrize(("kind", "other"), [("fp32", "fp16"), ("fp16", "int8"), ("int8", "fp32")])
def test_a_checkpoint_of_another_kind_is_refused(kind: Kind, other: Kind) -> None:
    memory = filled(kind=kind)
    with pytest.raises(BadInput, match=r"\(5, 1, 2, 2\) \w+ cannot take .* its own kind of memory"):
        memory.load_state_dict(filled(kind=other).state_dict())


def test_a_sample_that_is_not_there_is_an_error() -> None:
    with pytest.raises((IndexError, RuntimeError)):
        filled().read(torch.tensor([5]))


def _rank(rank: int, folder: Path) -> None:
    """One of two processes that write different samples at the same time."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for kind in DTYPES:
        memory = SampleMemory(6, (1, 1, 1), kind=kind, scale=255.0)
        index = torch.tensor([[4, 0], [1, 5]])[rank]
        memory.write(index, (index + 1.0).view(-1, 1, 1, 1) / 255)
        torch.save(memory.read(torch.arange(6)), folder / f"{kind}-{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_memory_holds_what_every_rank_wrote(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (tmp_path,), nprocs=2)
    for kind in DTYPES:
        for rank in range(2):
            rows = 255 * torch.load(tmp_path / f"{kind}-{rank}")
            assert rows.flatten().tolist() == pytest.approx([1, 2, 0, 0, 5, 6]), (kind, rank)
