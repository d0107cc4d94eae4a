import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import crop as crop_one
from torchvision.transforms.functional import hflip

from sparring.data.augment import Augment
from sparring.errors import BadInput

DTYPES = [torch.uint8, torch.int8, torch.bool, torch.float16, torch.float32, torch.int64]


@st.composite
def scenes(draw):
    """A view with canvases and crops that fit it."""
    count, channels = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    size = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    pad = draw(st.integers(0, min(size) - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    view = Augment(pad, flip=draw(st.booleans())).draw(count, size, generator)
    dtype = draw(st.sampled_from(DTYPES))

    def image(height, width):
        return torch.randint(0, 100, (count, channels, height, width), generator=generator).to(dtype)

    return view, image(size[0] + 2 * pad, size[1] + 2 * pad), image(*size)


@settings(deadline=None)
@given(scenes())
def test_show_agrees_with_a_loop_over_the_images(scene):
    view, canvas, _ = scene
    for number, shown in enumerate(view.show(canvas)):
        expected = crop_one(canvas[number], int(view.top[number]), int(view.left[number]), *view.size)
        assert torch.equal(shown, hflip(expected) if view.flip[number] else expected)


@settings(deadline=None)
@given(scenes())
def test_show_and_write_back_undo_each_other(scene):
    view, canvas, crop = scene
    assert torch.equal(view.show(view.write_back(canvas, crop)), crop)
    assert torch.equal(view.write_back(canvas, view.show(canvas)), canvas)


@settings(deadline=None)
@given(scenes())
def test_write_back_keeps_what_was_not_seen_and_its_arguments(scene):
    view, canvas, crop = scene
    before = canvas.clone()
    written = view.write_back(canvas, crop)
    assert torch.equal(canvas, before)
    seen = torch.zeros_like(canvas, dtype=torch.bool)
    for number, mask in enumerate(seen):
        crop_one(mask, int(view.top[number]), int(view.left[number]), *view.size).fill_(True)
    assert torch.equal(written[~seen], canvas[~seen])


def test_view_handles_memory_that_is_not_contiguous():
    augment = Augment(pad=2, flip=True)
    view = augment.draw(4, (6, 5), torch.Generator().manual_seed(0))
    canvas = augment.canvas(torch.rand(4, 3, 6, 5))
    striped = canvas.to(memory_format=torch.channels_last)
    crop = torch.rand(4, 3, 6, 5).to(memory_format=torch.channels_last)
    assert torch.equal(view.show(striped), view.show(canvas))
    assert torch.equal(view.write_back(striped, crop), view.write_back(canvas, crop))


def test_view_reads_no_values():
    """On the meta device there are none to read: a synchronisation with the host would raise."""
    view = Augment(pad=4, flip=True).draw(3, (8, 6), device="meta")
    canvas = torch.empty(3, 2, 16, 14, device="meta")
    assert view.show(canvas).shape == (3, 2, 8, 6)
    assert view.write_back(canvas, view.show(canvas)).shape == canvas.shape


def test_view_passes_gradients_to_the_pixels_that_it_shows():
    view = Augment(pad=1, flip=True).draw(2, (3, 3), torch.Generator().manual_seed(1))
    canvas = torch.zeros(2, 1, 5, 5, requires_grad=True)
    weight = torch.rand(2, 1, 3, 3)
    (view.show(canvas) * weight).sum().backward()
    assert torch.equal(canvas.grad, view.write_back(torch.zeros(2, 1, 5, 5), weight))


def test_view_refuses_a_canvas_of_another_size():
    view = Augment(pad=2).identity(1, (8, 8))
    with pytest.raises(ValueError, match=r"\(8, 8\).*\(12, 12\)"):
        view.show(torch.zeros(1, 3, 8, 8))


def test_a_slice_of_a_view_shows_a_slice_of_the_images():
    augment = Augment(pad=2, flip=True)
    view = augment.draw(6, (5, 5), torch.Generator().manual_seed(2))
    canvas = augment.canvas(torch.rand(6, 1, 5, 5))
    assert torch.equal(view[2:5].show(canvas[2:5]), view.show(canvas)[2:5])


@pytest.mark.parametrize("fill", ["zero", "reflect"])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_canvas_pads_as_numpy_does_and_identity_shows_the_image(fill, pad):
    images = torch.randint(0, 256, (2, 3, 5, 6), dtype=torch.uint8)
    augment = Augment(pad, flip=True, fill=fill)
    canvas = augment.canvas(images)
    mode = {"zero": "constant", "reflect": "reflect"}[fill]
    assert np.array_equal(canvas.numpy(), np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode))
    assert canvas.dtype == torch.uint8
    assert torch.equal(augment.identity(2, (5, 6)).show(canvas), images)


def test_draws_are_uniform_and_repeatable():
    def draw(seed):
        return Augment(pad=1, flip=True).draw(18000, (4, 4), torch.Generator().manual_seed(seed))

    view, again, other = draw(0), draw(0), draw(1)
    cell = view.top * 6 + view.left * 2 + view.flip
    counts = torch.bincount(cell, minlength=18)  # 3 tops x 3 lefts x 2 sides, 1000 each in expectation
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-squared with 17 degrees of freedom, p = 2e-4
    assert torch.equal(view.left, again.left)
    assert not torch.equal(view.left, other.left)
    assert not Augment(pad=1).draw(100, (4, 4)).flip.any()


def test_bad_augmentation_is_refused():
    with pytest.raises(BadInput, match=r"augment.pad is -1"):
        Augment(pad=-1)
    with pytest.raises((BadInput, TypeError), match="reflekt"):  # TypeError where types are checked as well
        Augment(fill="reflekt")
    for fill in ("zero", "reflect"):
        with pytest.raises(BadInput, match=r"augment.pad is 4, so that a crop of 8 x 4 pixels.*give 3 at most"):
            Augment(pad=4, fill=fill).draw(1, (8, 4))
        with pytest.raises(BadInput, match="give 3 at most"):
            Augment(pad=4, fill=fill).canvas(torch.zeros(1, 1, 8, 4))
