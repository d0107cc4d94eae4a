"""The pool: who is in it, who leaves it, what counts as found, and that nothing depends on its size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import (
    APGD,
    FAB,
    PGD,
    Capacity,
    CountedModel,
    Pool,
    Restarted,
    SearchAttack,
    SearchInputs,
    SearchState,
    Square,
)
from sparring.attacks.search import initial_fields
from sparring.errors import BadInput
from sparring.threat import Threat
from tests.attacks.harness import Curved, pictures, streams

LINF = Threat("Linf", "1/4")


class Bright(nn.Module):
    """Class 1 where the first pixel is above 0.6, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full((len(x),), 0.6), x[:, 0, 0, 0]], 1)


@dataclass(frozen=True)
class Walk(SearchAttack):
    """Adds a hundredth in every step, and claims to have found something beyond `claim`; attempt k starts k / 100 higher."""

    steps: int = 10
    tries: int = 1
    claim: float = 0.6
    state_type = SearchState

    @property
    def max_steps(self) -> int:
        return self.steps

    def attempts(self, classes: int) -> int:
        return self.tries

    def init(self, x, y, clean, attempt, streams, threat) -> SearchState:
        return SearchState(**initial_fields(x, y, x + attempt / 100))

    def step(self, counted, state, threat) -> SearchState:
        counted.logits(state.point)
        found = state.point[:, 0, 0, 0] > self.claim
        return replace(state, point=state.point + 0.01, found=found, candidate=state.point)

    def describe(self, threat):
        return {}


def pool_of(search: SearchAttack, pixels: list[float], capacity: int = 4, **more) -> tuple[Pool, CountedModel, Tensor]:
    """A pool on one-pixel images of class 0, the counted model that it runs, and the images that it writes into."""
    x = torch.tensor(pixels).view(-1, 1, 1, 1)
    y = torch.zeros(len(x), dtype=torch.int64)
    counted, images = CountedModel(Bright()), x.clone()
    inputs = SearchInputs(lambda rows: (x[rows], y[rows]), Bright()(x), streams(len(x)))
    rows = torch.arange(len(x))
    pool = Pool(search, inputs, LINF, counted, CountedModel(Bright()), rows, Capacity(capacity), images=images, **more)
    return pool, counted, images


def test_each_image_walks_until_it_is_fooled_or_its_steps_are_over() -> None:
    pool, counted, images = pool_of(Walk(), [0.495, 0.545, 0.595, 0.3])
    fractions = list(pool.run())
    assert pool.fooled.tolist() == [False, True, True, False]
    # The third is beyond 0.6 at its second point, the second at its seventh; the first ends at 0.595, just before.
    assert counted.forwards == 10 + 7 + 2 + 10
    torch.testing.assert_close(images.flatten(), torch.tensor([0.595, 0.605, 0.605, 0.4]))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_the_point_after_the_last_step_is_verified_too() -> None:
    pool, _, images = pool_of(Walk(steps=10), [0.505])
    list(pool.run())
    assert pool.fooled.tolist() == [True]
    assert images.item() == pytest.approx(0.605)


def test_a_claim_that_the_verifier_does_not_confirm_does_not_count_and_the_attempt_goes_on() -> None:
    pool, counted, images = pool_of(Walk(claim=0.5), [0.495, 0.55])
    list(pool.run())
    assert pool.fooled.tolist() == [False, True]
    assert images[1].item() == pytest.approx(0.61)
    assert counted.forwards == 10 + 7


def test_the_last_point_is_verified_also_where_the_last_claim_is_denied() -> None:
    """Its claim is of the point before, 0.595; the one after is beyond 0.6."""
    pool, _, images = pool_of(Walk(steps=10, claim=0.5), [0.505])
    list(pool.run())
    assert pool.fooled.tolist() == [True]
    assert images.item() == pytest.approx(0.605)


def test_an_image_outside_the_ball_does_not_count() -> None:
    @dataclass(frozen=True)
    class Jump(Walk):
        def step(self, counted, state, threat) -> SearchState:
            point = state.x + 0.2501
            return replace(state, point=point, found=torch.ones_like(state.found), candidate=point)

    pool, _, images = pool_of(Jump(), [0.4])
    list(pool.run())
    assert pool.fooled.tolist() == [False]
    assert images.item() == pytest.approx(0.4)


@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("patience", [1, 4])
def test_the_earliest_attempt_that_succeeds_is_the_one_that_counts_whatever_the_size(capacity: int, patience) -> None:
    pixels = [0.3, 0.44, 0.485, 0.49, 0.5, 0.55, 0.595]
    pool, _, images = pool_of(Walk(steps=9, tries=5), pixels, capacity, patience=patience)
    list(pool.run())
    assert pool.fooled.tolist() == [False, False, True, True, True, True, True]
    # Attempt k ends at x + k / 100 + 0.09: 0.485 needs attempt 3, 0.49 attempt 3, 0.5 attempt 2, the others attempt 0.
    assert images.flatten()[:2].tolist() == pytest.approx([0.3 + 0.13, 0.44 + 0.13])
    assert images.flatten()[2:5].tolist() == pytest.approx([0.605, 0.61, 0.61])
    assert (images.flatten()[2:] > 0.6).all()


def test_who_is_fooled_takes_no_later_attempts() -> None:
    pool, counted, _ = pool_of(Walk(steps=9, tries=5), [0.595], capacity=1)
    list(pool.run())
    assert counted.forwards == 2


def test_a_pool_that_stops_goes_on_from_its_state_to_the_same_end() -> None:
    pixels, search = [0.3 + place / 40 for place in range(12)], Walk(steps=9, tries=3)
    whole, _, images = pool_of(search, pixels)
    list(whole.run())
    for stop in range(1, 40, 3):
        begun, _, parts = pool_of(search, pixels)
        run = begun.run()
        for _ in range(stop):
            next(run, None)
        resumed, _, _ = pool_of(search, pixels)
        resumed._images = parts  # the caller keeps the images
        resumed.load_state_dict({name: value.clone() for name, value in begun.state_dict().items()}, "cpu")
        list(resumed.run())
        assert torch.equal(resumed.fooled, whole.fooled)
        assert torch.equal(parts, images)


class Forgetful(CountedModel):
    """Runs out of memory on more than two images."""

    def __init__(self, message: str) -> None:
        super().__init__(Bright())
        self.message = message

    def logits(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise RuntimeError(self.message)
        return super().logits(x)


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9",
        "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9",
    ],
)
def test_what_does_not_fit_is_tried_again_with_fewer_images(message: str) -> None:
    pixels = [0.3 + place / 40 for place in range(12)]
    whole, _, expected = pool_of(Walk(tries=2), pixels)
    list(whole.run())
    pool, _, images = pool_of(Walk(tries=2), pixels, capacity=11)
    pool._model = Forgetful(message)
    list(pool.run())
    assert torch.equal(pool.fooled, whole.fooled)
    assert torch.equal(images, expected)
    assert pool._capacity.rows == 2


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    pool, _, _ = pool_of(Walk(), [0.1, 0.2, 0.3])
    pool._model = Forgetful("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(pool.run())


def test_a_single_image_that_does_not_fit_is_said_to() -> None:
    class Hopeless(CountedModel):
        def logits(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    pool, _, _ = pool_of(Walk(), [0.1, 0.2, 0.3])
    pool._model = Hopeless(Bright())
    with pytest.raises(BadInput, match="too small for a single image"):
        list(pool.run())


def test_a_verifier_that_returns_nan_is_refused() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), torch.nan)

    pool, _, _ = pool_of(Walk(), [0.7])
    pool._verifier = CountedModel(Broken())
    with pytest.raises(BadInput, match="NaN logits under attack"):
        list(pool.run())


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(BadInput, match="batch size is 0"):
        Capacity(0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(
    "attack",
    [
        Restarted(PGD(steps=4), 3),
        APGD(steps=12, restarts=2),
        APGD("dlr", targets=9, steps=12),
        FAB(steps=8, targets=3, restarts=2),
        FAB(steps=4, targets=None),
        Square(queries=30),
    ],
    ids=["pgd", "apgd-ce", "apgd-t", "fab-t", "fab", "square"],
)
def test_no_image_depends_on_who_else_is_in_the_pool(attack: SearchAttack, norm) -> None:
    """Not the verdict, nor the image found."""
    model, threat = Curved(5), Threat(norm, "1/100" if norm == "Linf" else "1/20")
    x = pictures(48)
    clean = model(x).detach()
    y = clean.argmax(1)

    def found(capacity: int, patience: int) -> tuple[Tensor, Tensor]:
        images, counted = x.clone(), CountedModel(model.requires_grad_(False))
        inputs = SearchInputs(lambda rows: (x[rows], y[rows]), clean, streams(48))
        rows = torch.arange(48)
        pool = Pool(attack, inputs, threat, counted, counted, rows, Capacity(capacity), patience, images)
        list(pool.run())
        return pool.fooled, images

    fooled, images = found(48, 1)
    assert 0 < fooled.sum() < 48
    for capacity in (1, 7, 500):
        again, others = found(capacity, 1)
        assert torch.equal(again, fooled)
        torch.testing.assert_close(others, images, rtol=0, atol=1e-10)
    assert torch.equal(found(20, 5)[0], fooled)
