import pytest
import torch

from sparring.data import Augment, Images, Resident, batches
from sparring.errors import BadInput


def images(count=23):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 6, 5), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(count) % 4, torch.arange(count))


def resident(count=23, **options):
    settings = {"augment": Augment(pad=2, flip=True), "batch_size": 5, "seed": 1, "device": "cpu"} | options
    return Resident(images(count), **settings)


def seen(epoch):
    return torch.cat([batch.index for batch in epoch])


def assert_same(one, two):
    for name in ("x", "y", "index"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    for name in ("top", "left", "flip"):
        assert torch.equal(getattr(one.view, name), getattr(two.view, name))


def test_an_epoch_shows_every_sample_once_with_its_label_and_pixels():
    split = images()
    epoch = list(resident().epoch(0))
    assert [len(batch.y) for batch in epoch] == [5, 5, 5, 5, 3]
    assert len(epoch) == resident().steps_per_epoch
    assert torch.equal(seen(epoch).sort().values, split.index)
    for batch in epoch:
        canvas = Augment(pad=2).canvas(split.pixels[batch.index])
        assert torch.equal(batch.y, split.labels[batch.index])
        assert torch.equal(batch.x, batch.view.show(canvas) / 255)
        assert batch.x.dtype == torch.float32


def test_index_is_the_one_of_the_images():
    split = images()
    shifted = Images(split.pixels, split.labels, split.index + 100)
    loader = Resident(shifted, Augment(), 5, seed=0, device="cpu")
    for batch in loader.epoch(0):
        assert torch.equal(batch.x, split.pixels[batch.index - 100] / 255)


@pytest.mark.parametrize("start", [1, 3, 5])
def test_an_epoch_that_is_entered_later_has_the_same_batches(start):
    whole = list(resident(45, rank=1, world_size=2).epoch(4))
    entered = list(resident(45, rank=1, world_size=2).epoch(4, start))
    for one, two in zip(whole[start:], entered, strict=True):
        assert_same(one, two)


def test_epochs_seeds_and_views_differ():
    orders = [seen(resident(seed=seed).epoch(epoch)) for seed in (1, 2) for epoch in (0, 1)]
    for position, order in enumerate(orders):
        assert not any(torch.equal(order, other) for other in orders[:position])
    first, second = (list(resident().epoch(epoch)) for epoch in (0, 1))
    assert not torch.equal(first[0].view.top, second[0].view.top)
    assert_same(first[2], list(resident().epoch(0))[2])


@pytest.mark.parametrize(("count", "world_size"), [(23, 2), (24, 3), (3, 5)])
def test_ranks_share_an_epoch_evenly(count, world_size):
    ranks = [list(resident(count, rank=rank, world_size=world_size).epoch(0)) for rank in range(world_size)]
    shares = [seen(epoch) for epoch in ranks]
    assert len({len(share) for share in shares}) == 1
    interleaved = torch.stack(shares, 1).flatten()
    alone = seen(resident(count).epoch(0))
    assert torch.equal(interleaved[:count], alone)  # the order of one rank, dealt out
    assert torch.equal(interleaved[count:], alone[torch.arange(len(interleaved) - count) % count])
    if count > world_size:
        assert not torch.equal(ranks[0][0].view.top, ranks[1][0].view.top)


def test_drop_last_leaves_whole_batches():
    loader = resident(drop_last=True)
    assert [len(batch.y) for batch in loader.epoch(0)] == [5] * loader.steps_per_epoch == [5] * 4


def test_a_batch_reads_no_values():
    """Once an epoch has begun, its batches are made on the device alone: here on one that has no values."""
    loader = resident(device="meta")
    assert [batch.x.shape[0] for batch in loader.epoch(0)] == [5, 5, 5, 5, 3]


def test_plain_batches_are_the_split_in_order():
    split = images()
    plain = list(batches(split, 10, "cpu"))
    assert [len(batch.y) for batch in plain] == [10, 10, 3]
    assert torch.equal(seen(plain), split.index)
    assert torch.equal(torch.cat([batch.y for batch in plain]), split.labels)
    x = torch.cat([batch.x for batch in plain])
    assert torch.equal(x, split.pixels.to(torch.float32) / 255)
    assert torch.equal(plain[0].view.show(plain[0].x), plain[0].x)


def test_bad_batch_sizes_are_refused():
    with pytest.raises(BadInput, match="batch size is 0"):
        resident(batch_size=0)
    with pytest.raises(BadInput, match=r"batch size is 12.*only 8 training images"):
        resident(batch_size=12, world_size=3, drop_last=True)
    with pytest.raises(BadInput, match="batch size is -1"):
        list(batches(images(), -1, "cpu"))
