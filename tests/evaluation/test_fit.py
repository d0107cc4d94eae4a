"""What an evaluation refuses before it begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparring import api
from sparring.data import Images
from sparring.errors import BadInput
from sparring.evaluation import Evaluator, check_fit
from sparring.threat import Threat


class Says(nn.Module):
    """Answers with whatever the function makes of the images."""

    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer(x)


def images(labels: tuple[int, ...] = (0, 1, 2)) -> Images:
    count = len(labels)
    return Images(
        torch.zeros(count, 1, 4, 4, dtype=torch.uint8), torch.tensor(labels, dtype=torch.int64), torch.arange(count)
    )


def fails(x: Tensor) -> Tensor:
    raise KeyError("layer7")


REFUSED = {
    "a model that raises": (fails, r"cannot take images of shape \(1, 4, 4\), those of mine \(KeyError: 'layer7'\)"),
    "a tuple": (lambda x: (x, x), "returned tuple instead of a tensor of logits"),
    "a map": (lambda x: x.expand(-1, 3, -1, -1), r"returned shape \(2, 3, 4, 4\) for 2 images"),
    "one class": (lambda x: x.new_zeros(len(x), 1), "knows 1 class: robustness needs at least two"),
    "nan": (lambda x: x.new_full((len(x), 3), torch.nan), "NaN logits for images of mine"),
    "other classes": (lambda x: x.new_zeros(len(x), 5), "knows 5 classes, but mine has 3"),
}


@pytest.mark.parametrize(("answer", "complaint"), REFUSED.values(), ids=REFUSED.keys())
def test_a_model_that_cannot_classify_the_images_is_refused(answer, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        check_fit(Says(answer), images(), 3, "mine", "cpu")


@pytest.mark.parametrize("labels", [(0, 1, 3), (-1, 0, 1)])
def test_labels_without_a_logit_are_refused(labels: tuple[int, ...]) -> None:
    with pytest.raises(
        BadInput, match=f"go from {min(labels)} to {max(labels)}, but the model knows the classes 0 to 2"
    ):
        check_fit(Says(lambda x: x.new_zeros(len(x), 3)), images(labels), None, "mine", "cpu")


def test_no_images_are_refused() -> None:
    with pytest.raises(BadInput, match="mine has no images"):
        check_fit(Says(fails), images(()), 3, "mine", "cpu")
    with pytest.raises(BadInput, match="no images to evaluate on"):
        Evaluator(Says(fails), images(()), Threat())


def test_a_model_that_fits_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_fit(model, images(), 3, "mine", "cpu")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nan_that_comes_only_with_some_images_is_refused_when_it_comes() -> None:
    def answer(x: Tensor) -> Tensor:
        return torch.where(x.flatten(1).amax(1, keepdim=True) > 0.5, torch.nan, x.new_zeros(len(x), 3))

    bright = images()
    bright.pixels[2] = 255
    with pytest.raises(BadInput, match="NaN logits on clean images"):
        api.evaluate(Says(answer), bright, Threat(), ["clean", "fgsm"], doctor=False)


@pytest.mark.parametrize(("fails", "count"), [(lambda x: len(x) == 1, 1), (lambda x: len(x) > 30, 40)])
def test_a_model_that_fails_for_some_numbers_of_images_is_found_out(fails, count: int) -> None:
    """As one that squeezes its features does, for a single image."""
    model = Says(lambda x: x.new_zeros(3) if fails(x) else x.new_zeros(len(x), 3))
    with pytest.raises(
        BadInput, match=rf"^With {count} images at once, unlike with 2: .*shape \(3,\) for {count} images"
    ):
        check_fit(model, images([0] * 40), 3, "mine", "cpu")


def test_many_images_that_do_not_fit_into_memory_are_no_fault_of_the_model() -> None:
    """A smaller batch, as a user may have asked for, is all that it takes."""

    def answer(x: Tensor) -> Tensor:
        if len(x) > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.new_zeros(len(x), 3)

    check_fit(Says(answer), images([0] * 40), 3, "mine", "cpu")


def test_a_network_in_half_precision_is_answered_with_what_to_do() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).bfloat16()
    with pytest.raises(
        BadInput, match=r"cannot take images of shape .*\. Its weights are bfloat16: give model\.float\(\)"
    ):
        check_fit(model, Images(torch.zeros(4, 1, 4, 4), [0, 1, 2, 0]), None, "mine", "cpu")
