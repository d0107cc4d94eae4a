"""FGSM-BP, -EP and -MEP against transcriptions of their card, in float64, and each of their switches."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from sparring.data import Batch
from sparring.data.augment import View
from sparring.errors import BadInput
from sparring.memory import Kind
from sparring.methods import AWP, BP, EP, MEP, Method
from sparring.methods.prior import GuidedPerturbation
from sparring.threat import Budget, Threat, box
from tests.methods import harness
from tests.methods.cases import released_mep
from tests.methods.harness import LINF, NO_LOSS, part, train_on
from tests.methods.known_networks import Linear, middle
from tests.methods.reference import (
    CLASSES,
    EPS,
    Plain,
    assert_same,
    batches,
    learner,
    network,
    pixel_gradient,
    set_up,
    smoothed_cross_entropy,
)

ALPHA = 0.08
SAMPLES = harness.BATCH * harness.STEPS_PER_EPOCH
all_three = pytest.mark.parametrize("make", [BP, EP, MEP])


pytestmark = pytest.mark.usefixtures("double_precision")


# Transcriptions --------------------------------------------------------------------------------------------------------


def window(view: View, i: int) -> tuple[slice, slice, bool]:
    """Where sample i of the batch was cut out of its canvas, and whether it was mirrored then."""
    top, left = int(view.top[i]), int(view.left[i])
    return slice(top, top + 8), slice(left, left + 8), bool(view.flip[i])


class Canvases:
    """A memory on the padded image: one sample at a time, by slicing."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows.clone()  # (N, 1, 10, 10)

    def read(self, batch: Batch) -> Tensor:
        crops = []
        for i, sample in enumerate(batch.index.tolist()):
            down, across, mirrored = window(batch.view, i)
            crop = self.rows[sample][:, down, across]
            crops.append(crop.flip(-1) if mirrored else crop.clone())
        return torch.stack(crops)

    def write(self, batch: Batch, values: Tensor) -> None:
        for i, sample in enumerate(batch.index.tolist()):
            down, across, mirrored = window(batch.view, i)
            self.rows[sample][:, down, across] = values[i].flip(-1) if mirrored else values[i]


class Crops:
    """A memory in the coordinates of whatever crop was shown (the released code)."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows.clone()  # (N, 1, 8, 8)

    def read(self, batch: Batch) -> Tensor:
        return torch.stack([self.rows[sample] for sample in batch.index.tolist()])

    def write(self, batch: Batch, values: Tensor) -> None:
        for sample, value in zip(batch.index.tolist(), values, strict=True):
            self.rows[sample] = value


class Positions:
    """A memory of one batch, by position (BP)."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows.clone()  # (B, 1, 8, 8)

    def read(self, batch: Batch) -> Tensor:
        return self.rows[: len(batch.y)].clone()

    def write(self, batch: Batch, values: Tensor) -> None:
        self.rows[: len(batch.y)] = values


def clip(delta: Tensor) -> Tensor:
    return delta.clamp(-EPS, EPS)


def boxed(x: Tensor, delta: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(delta, 1 - x), -x)


def guided_gradient(plain: Plain, batch: Batch, start: Tensor, kept: float) -> tuple[Tensor, Tensor]:
    """The prior's forward (it moves the running statistics) with its graph, and the gradient of its batch-mean loss."""
    point = (batch.x + start).requires_grad_()
    prior = plain.network(point)
    loss = smoothed_cross_entropy(prior, batch.y, kept).mean()
    return prior, torch.autograd.grad(loss, point, retain_graph=True)[0]


def paper_step(plain: Plain, batch: Batch, start: Tensor, weight: float, clamp: Callable) -> tuple[Tensor, ...]:
    """delta = clip_e(start + alpha sign g); CE(f(x + delta)) + lambda ||f(x + delta) - f(x + start)||_2^2; SGD."""
    prior, gradient = guided_gradient(plain, batch, start, 1.0)
    delta = clamp(clip(start + ALPHA * gradient.sign()))
    logits = plain.network(batch.x + delta)
    loss = (smoothed_cross_entropy(logits, batch.y) + weight * (logits - prior).square().sum(1)).mean()
    plain.descend(plain.gradients(loss))
    return delta, gradient, loss


def run(method: Method, follow: Callable[[Plain, Batch], Tensor], subject, plain: Plain, epochs: int = 2) -> None:
    """Eight steps over two epochs, both sides; the losses agree at every step."""
    for epoch in range(epochs):
        method.begin_epoch(epoch)
        for batch in batches(epoch):
            loss = train_on(method, subject, batch).loss
            torch.testing.assert_close(loss.total, follow(plain, batch), rtol=0, atol=1e-9)
    assert_same(subject, plain)


@pytest.mark.parametrize("which", ["none", "all"])
def test_bp_trains_as_its_card_says(which) -> None:
    """delta_{B,t+1} = clip_e(delta_{B,t} + alpha sign grad L(f(x + delta_{B,t}))), the previous batch's as the prior."""
    method = set_up(BP(alpha=ALPHA, weight=0.7, box=which))
    subject, plain, memory = learner(), Plain(), Positions(method.buffer)

    def follow(plain: Plain, batch: Batch) -> Tensor:
        clamp = partial(boxed, batch.x) if which == "all" else lambda delta: delta
        delta, _, loss = paper_step(plain, batch, clamp(memory.read(batch)), 0.7, clamp)
        memory.write(batch, delta)
        return loss

    run(method, follow, subject, plain)
    torch.testing.assert_close(method.buffer, memory.rows, rtol=0, atol=1e-10)


@pytest.mark.parametrize("aligned", [True, False])
def test_ep_trains_as_its_card_says(aligned: bool) -> None:
    """As BP, with the same sample's perturbation of the previous epoch as the prior."""
    method = set_up(EP(alpha=ALPHA, weight=0.7, box="none", aligned=aligned))
    subject, plain = learner(), Plain()
    memory = (Canvases if aligned else Crops)(method.perturbations.rows)

    def follow(plain: Plain, batch: Batch) -> Tensor:
        delta, _, loss = paper_step(plain, batch, memory.read(batch), 0.7, lambda delta: delta)
        memory.write(batch, delta)
        return loss

    run(method, follow, subject, plain)
    torch.testing.assert_close(method.perturbations.rows, memory.rows, rtol=0, atol=1e-10)


@pytest.mark.parametrize("which", ["none", "all"])
def test_mep_trains_as_the_paper_says_aligned_under_augmentation(which) -> None:
    """g_c = sign grad; g <- mu g + g_c; train at clip_e(eta + alpha g_c); eta <- clip_e(eta + alpha sign g)."""
    method = set_up(MEP(alpha=ALPHA, weight=0.7, decay=0.3, momentum="sign", box=which))
    subject, plain = learner(), Plain()
    eta, momenta = Canvases(method.perturbations.rows), Canvases(torch.zeros(SAMPLES, 1, 10, 10))

    def follow(plain: Plain, batch: Batch) -> Tensor:
        clamp = partial(boxed, batch.x) if which == "all" else lambda delta: delta
        start = clamp(eta.read(batch))
        _, gradient, loss = paper_step(plain, batch, start, 0.7, clamp)
        momentum = 0.3 * momenta.read(batch) + gradient.sign()
        momenta.write(batch, momentum)
        eta.write(batch, clamp(clip(start + ALPHA * momentum.sign())))
        return loss

    run(method, follow, subject, plain)
    torch.testing.assert_close(method.momenta.rows, momenta.rows, rtol=0, atol=1e-10)
    torch.testing.assert_close(method.perturbations.rows, eta.rows, rtol=0, atol=1e-10)


def test_mep_trains_as_the_released_code_does() -> None:
    """Card 3.3, its steps 2 to 7, with F = 0.6, lambda = 10 on the mean over classes, mu = 0.3 and alpha = eps."""
    method = set_up(
        MEP(
            weight=10.0,
            regulariser="mean",
            smoothing=0.4 * CLASSES / (CLASSES - 1),
            initial="rademacher",
            reset=40,
            box="final",
            decay=0.3,
            momentum="gradient",
            aligned=False,
        )
    )
    subject, plain = learner(), Plain()
    stored, momenta = Crops(method.perturbations.rows), Crops(torch.zeros(SAMPLES, 1, 8, 8))
    assert stored.rows.abs().unique().tolist() == [EPS]

    def follow(plain: Plain, batch: Batch) -> Tensor:
        x, y, delta = batch.x, batch.y, stored.read(batch)
        z0, gradient = guided_gradient(plain, batch, delta, 0.6)
        momentum = gradient / gradient.norm(p=1) + 0.3 * momenta.read(batch)
        next_delta = boxed(x, clip(delta + EPS * momentum.sign()))
        delta_adv = boxed(x, clip(delta + EPS * gradient.sign()))
        z1 = plain.network(x + delta_adv)
        loss = smoothed_cross_entropy(z1, y, 0.6).mean() + 10 * nn.functional.mse_loss(z1, z0)
        plain.descend(plain.gradients(loss))
        momenta.write(batch, momentum)
        stored.write(batch, next_delta)
        return loss

    run(method, follow, subject, plain)
    torch.testing.assert_close(method.momenta.rows, momenta.rows, rtol=0, atol=1e-12)
    torch.testing.assert_close(method.perturbations.rows, stored.rows, rtol=0, atol=1e-10)


def test_the_gradient_momentum_is_not_degenerate() -> None:
    """In the released form momentum and gradient disagree in sign somewhere, or the transcription above proves less."""
    method = set_up(MEP(momentum="gradient", decay=1.0, aligned=False))
    subject = learner()
    for epoch in range(2):
        for batch in batches(epoch):
            perturbation = method.perturb(subject.attack_model, batch)
            train_on(method, subject, batch)
    gradient, momentum = perturbation.gradient, method.momenta.read(batch.index)
    share = (gradient.sign() != momentum.sign()).double().mean().item()
    assert 0.05 < share < 0.95


# The memory and the augmentation ---------------------------------------------------------------------------------------


def views(count: int) -> tuple[View, View]:
    """Two ways of showing the same canvases: shifted by up to two pixels, one mirrored and one not, or both."""
    rows = torch.arange(count)
    first = View(rows % 3, (rows + 1) % 3, rows % 2 == 0, 1, (8, 8))
    return first, View((rows + 1) % 3, rows % 2, rows % 3 == 0, 1, (8, 8))


@pytest.mark.parametrize("make", [EP, MEP])
def test_an_aligned_perturbation_stays_with_its_pixel(make) -> None:
    """Seen through another crop and flip, each pixel meets the perturbation that was found for it."""
    method = set_up(make(box="none"))
    untouched = method.perturbations.rows.clone()
    batch = batches()[0]
    first, second = views(len(batch.y))
    perturbation = method.perturb(network(), replace(batch, view=first))
    method.commit(replace(batch, view=first), perturbation, NO_LOSS)
    start = method.perturb(network(), replace(batch, view=second)).start

    met = 0
    for i, sample in enumerate(batch.index.tolist()):
        for row in range(8):
            for column in range(8):
                across = 7 - column if second.flip[i] else column
                spot = int(second.top[i]) + row, int(second.left[i]) + across  # on the canvas
                then = spot[0] - int(first.top[i]), spot[1] - int(first.left[i])  # in the first crop
                if 0 <= then[0] < 8 and 0 <= then[1] < 8:
                    mirrored = 7 - then[1] if first.flip[i] else then[1]
                    expected = perturbation.delta[i, 0, then[0], mirrored]
                    met += 1
                else:
                    expected = untouched[sample, 0, spot[0], spot[1]]
                assert start[i, 0, row, column] == expected
    assert 0.6 * 16 * 64 < met < 16 * 64


@pytest.mark.parametrize("make", [EP, MEP])
def test_in_crop_coordinates_the_perturbation_stays_with_the_crop(make) -> None:
    method = set_up(make(box="none", aligned=False))
    batch = batches()[0]
    first, second = views(len(batch.y))
    perturbation = method.perturb(network(), replace(batch, view=first))
    method.commit(replace(batch, view=first), perturbation, NO_LOSS)
    assert torch.equal(method.perturb(network(), replace(batch, view=second)).start, perturbation.delta)


@pytest.mark.parametrize("make", [EP, MEP])
def test_each_sample_remembers_its_own(make) -> None:
    """The order of an epoch does not matter, nor do other samples."""
    method = set_up(make(box="none", aligned=False))
    first, other = batches()[0], batches()[1]
    before = method.perturb(network(), other).start
    perturbation = method.perturb(network(), first)
    method.commit(first, perturbation, NO_LOSS)
    order = torch.randperm(len(first.y), generator=torch.Generator().manual_seed(0))
    shuffled = Batch(first.x[order], first.y[order], first.index[order], first.view)
    assert torch.equal(method.perturb(network(), shuffled).start, perturbation.delta[order])
    assert torch.equal(method.perturb(network(), other).start, before)


def test_bp_hands_the_perturbations_to_the_next_batch_by_position() -> None:
    method = set_up(BP(box="none"))
    first, other = batches()[0], batches()[1]
    perturbation = method.perturb(network(), first)
    start = perturbation.start.clone()
    method.commit(first, perturbation, NO_LOSS)
    assert torch.equal(method.perturb(network(), other).start, perturbation.delta)
    assert torch.equal(perturbation.start, start)  # what was handed out does not change with the memory


def test_a_smaller_last_batch_replaces_only_the_first_rows_of_bp() -> None:
    method = set_up(BP(box="none"))
    batch, before = batches()[0], method.buffer.clone()
    last = part(batch, slice(5))
    perturbation = method.perturb(network(), last)
    assert torch.equal(perturbation.start, before[:5])
    method.commit(last, perturbation, NO_LOSS)
    assert torch.equal(method.buffer[:5], perturbation.delta)
    assert torch.equal(method.buffer[5:], before[5:])
    assert not torch.equal(perturbation.delta, before[:5])
    subject = learner()
    train_on(method, subject, last)
    train_on(method, subject, batch)


# Beginning and resetting -----------------------------------------------------------------------------------------------


def stored(method: Method) -> Tensor:
    return method.buffer if isinstance(method, BP) else method.perturbations.rows


@all_three
def test_an_empty_memory_is_uniform_in_the_ball(make) -> None:
    values = stored(set_up(make())) / EPS
    assert values.abs().max() <= 1
    assert values.mean().item() == pytest.approx(0, abs=0.1)
    assert values.square().mean().item() == pytest.approx(1 / 3, abs=0.05)
    assert values.unique().numel() > 0.99 * values.numel()


@all_three
def test_a_rademacher_memory_is_plus_or_minus_the_radius(make) -> None:
    values = stored(set_up(make(initial="rademacher")))
    assert values.unique().tolist() == [-EPS, EPS]
    assert (values > 0).double().mean().item() == pytest.approx(0.5, abs=0.06)


@all_three
@pytest.mark.parametrize("initial", ["uniform", "rademacher"])
def test_in_l2_an_empty_memory_lies_in_the_ball(make, initial) -> None:
    size = harness.L2.size(stored(set_up(make(initial=initial), harness.L2)))
    assert size.max() <= 0.5 + 1e-12
    assert size.min() > 0.3


@all_three
def test_the_memory_is_emptied_when_the_period_is_over_and_only_then(make) -> None:
    method = make(reset=3)
    method.setup(harness.task(LINF))
    assert not stored(method).any()  # setup allocates, the first epoch fills
    seen = []
    for epoch in range(8):
        method.begin_epoch(epoch)
        if stored(method).min() < 0:
            seen.append((epoch, stored(method).clone()))
        stored(method).fill_(0.5)
        if isinstance(method, MEP):
            assert method.momenta.rows.any() == (epoch % 3 != 0)
            method.momenta.rows.fill_(0.5)
    assert [epoch for epoch, _ in seen] == [0, 3, 6]
    assert not torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[1][1], seen[2][1])


@all_three
def test_without_a_period_the_memory_is_filled_once(make) -> None:
    method = set_up(make())
    stored(method).fill_(0.5)
    for epoch in range(1, 100):
        method.begin_epoch(epoch)
    assert (stored(method) == 0.5).all()


@all_three
def test_beginning_an_epoch_twice_keeps_the_memory(make) -> None:
    """A run that is resumed in the middle of an epoch begins it again."""
    method = make(reset=2)
    method.setup(harness.task(LINF))
    for epoch in (0, 2):
        method.begin_epoch(epoch)
        stored(method).fill_(0.5)
        method.begin_epoch(epoch)
        assert (stored(method) == 0.5).all()


@all_three
def test_a_new_run_begins_with_an_empty_memory(make) -> None:
    method = set_up(make())
    first = stored(method).clone()
    train_on(method, learner(), batches()[0])
    assert torch.equal(stored(set_up(method)), first)


@all_three
def test_the_noise_of_an_empty_memory_depends_on_the_seed_alone(make) -> None:
    def filled(seed: int) -> Tensor:
        method = make()
        method.setup(replace(harness.task(LINF), seed=seed))
        torch.rand(3)  # the default generator has nothing to do with it
        method.begin_epoch(0)
        return stored(method)

    assert torch.equal(filled(0), filled(0))
    assert not torch.equal(filled(0), filled(1))


# The kinds of memory ---------------------------------------------------------------------------------------------------

EIGHT = Threat("Linf", "8/255")
EXACT: dict[str, Callable[[Kind], EP | MEP]] = {
    "as released": lambda kind: replace(released_mep(kind), reset=None),
    "as released, resetting": released_mep,
    "as released, small steps": lambda kind: replace(released_mep(kind), reset=None, alpha="3/255"),
    "MEP": lambda kind: MEP(memory=kind),
    "EP": lambda kind: EP(memory=kind),
    "EP, no box": lambda kind: EP(memory=kind, box="none", aligned=False),
}


def begin(epoch: int, *methods: EP | MEP) -> None:
    for method in methods:
        if epoch == 0:
            method.setup(harness.task(EIGHT))
        method.begin_epoch(epoch)


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT.keys())
def test_int8_holds_every_perturbation_exactly(make) -> None:
    """52 steps at fixed weights in single precision, momenta too: what fp16 does to those is tested below."""
    torch.set_default_dtype(torch.float32)
    whole, small, model = make("fp32"), make("int8"), harness.network()
    for epoch in range(13):
        begin(epoch, whole, small)
        if epoch == 0 and whole.initial == "uniform":  # rounded once, and exact from then on
            whole.perturbations.fill(lambda like: small.perturbations.read(torch.arange(len(like))))
        if epoch == 0 and isinstance(small, MEP):
            small.momenta = deepcopy(whole.momenta)
        for batch in harness.batches(epoch):
            expected, found = whole.perturb(model, batch), small.perturb(model, batch)
            whole.commit(batch, expected, NO_LOSS)
            small.commit(batch, found, NO_LOSS)
            torch.testing.assert_close(found.start, expected.start, rtol=0, atol=1e-6)
            torch.testing.assert_close(found.delta, expected.delta, rtol=0, atol=1e-6)
    if isinstance(small, MEP):
        assert torch.equal(small.momenta.rows.sign(), whole.momenta.rows.sign())
    assert small.perturbations.rows.dtype == torch.int8
    assert small.perturbations.rows.unique().numel() > 2


def test_momenta_in_fp16_have_the_signs_of_those_in_single_precision() -> None:
    """52 steps of the released form on one stream of gradients: other signs only where the sum nearly cancels."""
    torch.set_default_dtype(torch.float32)
    whole, small, model = (*(replace(released_mep(kind), reset=None) for kind in ("fp32", "int8")), harness.network())
    size = torch.zeros(SAMPLES, 1, 8, 8)  # the sum of the same terms without their signs
    error = torch.zeros(SAMPLES, 1, 8, 8)  # what rounding can have added up to: half a unit in fp16's last place a step
    flipped = []
    for epoch in range(13):
        begin(epoch, whole, small)
        for batch in harness.batches(epoch):
            perturbation = whole.perturb(model, batch)
            for method in (whole, small):
                method.commit(batch, perturbation, NO_LOSS)
            expected, found = (method.momenta.read(batch.index) for method in (whole, small))
            gradient = perturbation.gradient.abs()
            size[batch.index] = 0.3 * size[batch.index] + gradient / gradient.sum()
            error[batch.index] = 0.3 * error[batch.index] + 2**-11 * size[batch.index] + 2**-25 / gradient.numel()
            assert ((found - expected).abs() <= 1.01 * error[batch.index]).all()
            flipped.append((found.sign() != expected.sign()).float().mean().item())
    assert small.momenta.rows.dtype == torch.float16
    assert (expected.sign() != perturbation.gradient.sign()).float().mean() > 0.02  # or momenta would prove little
    assert sum(flipped) / len(flipped) < 1e-3


@pytest.mark.parametrize(
    ("kind", "momenta"), [("fp32", torch.float64), ("fp16", torch.float16), ("int8", torch.float16)]
)
@pytest.mark.parametrize("form", ["sign", "gradient"])
def test_the_momenta_are_stored_in_half_precision_where_the_perturbations_are_not_in_full(kind, momenta, form) -> None:
    method = set_up(MEP(memory=kind, momentum=form))
    assert method.momenta.rows.dtype == momenta
    batch, gradient = middle(), torch.ones(16, 1, 8, 8)
    method.commit(batch, GuidedPerturbation(0 * gradient, 0 * gradient, gradient=gradient, alpha=EPS, eps=EPS), NO_LOSS)
    expected = 1.0 if form == "sign" else 1 / gradient.numel()
    torch.testing.assert_close(
        batch.view.show(method.momenta.read(batch.index)), gradient * expected, rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("make", [EP, MEP])
def test_the_noise_of_an_empty_memory_does_not_depend_on_its_kind(make) -> None:
    whole, half, small = (stored(set_up(make(memory=kind))).double() for kind in ("fp32", "fp16", "int8"))
    torch.testing.assert_close(half / 255, whole, rtol=1e-3, atol=1e-8)
    assert torch.equal(small, (255 * whole).round())


@pytest.mark.parametrize("make", [EP, MEP])
@pytest.mark.parametrize(
    ("threat", "alpha", "message"),
    [
        (Threat("L2", "128/255"), None, "whole pixel levels, unlike an L2 ball: set memory to fp16"),
        (Threat("Linf", "0.03"), None, "up to 127/255, but eps is 0.03: write it as one of them, such as 8/255"),
        (Threat("Linf", "128/255"), "8/255", "up to 127/255, but eps is 128/255"),
        (EIGHT, "1/510", "up to 127/255, but alpha is 1/510"),
    ],
)
def test_int8_is_refused_where_it_would_not_be_exact(make, threat: Threat, alpha: str | None, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make(memory="int8", alpha=alpha).setup(harness.task(threat))
    make(memory="fp16", alpha=alpha).setup(harness.task(threat))


@pytest.mark.parametrize("make", [EP, MEP])
@pytest.mark.parametrize(("eps", "alpha"), [("8/255", None), ("127/255", "10/255"), ("0.2", "16/510")])
def test_int8_is_accepted_where_it_is_exact(make, eps: str, alpha: str | None) -> None:
    make(memory="int8", alpha=alpha).setup(harness.task(Threat("Linf", eps)))


@pytest.mark.parametrize("make", [EP, MEP])
def test_images_without_an_index_are_refused(make) -> None:
    stream = replace(harness.task(LINF), samples=None)
    with pytest.raises(BadInput, match=f"{make.__name__} remembers each image.*choose the method BP"):
        make().setup(stream)
    BP().setup(stream)


# One switch at a time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "sign"), [(0.55, -1), (0.65, 1), (0.99, 1)])
def test_smoothing_makes_the_attack_raise_the_confidence_of_what_is_already_sure(p: float, sign: int) -> None:
    """With F = 0.6 kept the loss of a sample with p_y > F grows with p_y (card 3.4)."""
    method = set_up(EP(alpha=0.01, smoothing=0.4 * 2, box="none"))
    method.perturbations.rows.zero_()
    model = Linear(float(torch.logit(torch.tensor(p))) - 32.0)
    assert model(middle().x).softmax(1)[:, 1].tolist() == pytest.approx([p] * 16)
    torch.testing.assert_close(method.perturb(model, middle()).delta, torch.full((16, 1, 8, 8), sign * 0.01))
    unsmoothed = set_up(EP(alpha=0.01, box="none"))
    unsmoothed.perturbations.rows.zero_()
    torch.testing.assert_close(unsmoothed.perturb(model, middle()).delta, torch.full((16, 1, 8, 8), -0.01))


@pytest.mark.parametrize("which", ["all", "final", "none"])
def test_the_box_binds_where_it_is_switched_on(which) -> None:
    method = set_up(MEP(initial="rademacher", alpha=0.03, box=which))
    batch = batches()[0]  # digits are black at the edges
    perturbation = method.perturb(network(), batch)
    method.commit(batch, perturbation, NO_LOSS)
    remembered = batch.view.show(method.perturbations.read(batch.index))
    deltas = {"start": perturbation.start, "delta": perturbation.delta, "next": remembered}
    found = {
        name: bool((batch.x + delta).min() >= -1e-12 and (batch.x + delta).max() <= 1 + 1e-12)
        for name, delta in deltas.items()
    }
    assert found == {"start": which == "all", "delta": which != "none", "next": which != "none"}
    assert all(delta.abs().max() <= EPS + 1e-12 for delta in deltas.values())
    unboxed = clip(perturbation.start + 0.03 * perturbation.gradient.sign())
    expected = unboxed if which == "none" else box(batch.x, unboxed)
    torch.testing.assert_close(perturbation.delta, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("form", ["sign", "gradient"])
def test_the_momentum_accumulates_what_it_is_told_to(form) -> None:
    method = set_up(MEP(alpha=0.03, momentum=form, decay=0.4, aligned=False, box="none"))
    batch = batches()[0]
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, *batch.x.shape, generator=generator)
    start = torch.zeros_like(batch.x)
    for gradient in (one, other):
        method.commit(batch, GuidedPerturbation(start, start, gradient=gradient, alpha=0.03, eps=EPS), NO_LOSS)
    expected = {
        "sign": 0.4 * one.sign() + other.sign(),
        "gradient": 0.4 * one / one.abs().sum() + other / other.abs().sum(),  # over the L1 norm of the whole batch
    }[form]
    torch.testing.assert_close(method.momenta.read(batch.index), expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(method.perturbations.read(batch.index), 0.03 * expected.sign(), rtol=0, atol=1e-15)


def test_the_first_epoch_s_momentum_is_its_gradient() -> None:
    """So that the next start is the perturbation that was trained on."""
    method = set_up(MEP(alpha=ALPHA))
    for batch in batches():
        perturbation = method.perturb(network(), batch)
        method.commit(batch, perturbation, NO_LOSS)
        gradient = perturbation.gradient
        assert torch.equal(batch.view.show(method.momenta.read(batch.index)), gradient / gradient.abs().sum())
        torch.testing.assert_close(batch.view.show(method.perturbations.read(batch.index)), perturbation.delta)


def test_a_zero_gradient_leaves_the_gradient_momentum_finite() -> None:
    method, batch = set_up(MEP(momentum="gradient")), batches()[0]
    zero = torch.zeros_like(batch.x)
    method.commit(batch, GuidedPerturbation(zero, zero, gradient=zero, alpha=EPS, eps=EPS), NO_LOSS)
    assert not method.momenta.read(batch.index).any()


@all_three
def test_a_detached_start_is_a_constant_of_the_loss(make) -> None:
    batch = batches()[0]
    method, attached = set_up(make(weight=0.7, detach_start=True)), set_up(make(weight=0.7))
    perturbation = method.perturb(network(), batch)

    def gradients(loss: Callable[[nn.Module], Tensor]) -> Tensor:
        model = network()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss(model), list(model.parameters()))])

    def by_hand(model: nn.Module) -> Tensor:
        with torch.no_grad():
            prior = model(batch.x + perturbation.start)
        logits = model(batch.x + perturbation.delta)
        return (smoothed_cross_entropy(logits, batch.y) + 0.7 * (logits - prior).square().sum(1)).mean()

    found = gradients(lambda model: method.loss(model, batch, perturbation).total)
    torch.testing.assert_close(found, gradients(by_hand), rtol=0, atol=1e-10)
    through_both = gradients(lambda model: attached.loss(model, batch, perturbation).total)
    assert (through_both - found).norm() > 0.01 * found.norm()


@all_three
def test_the_sum_over_classes_is_the_mean_times_their_number(make) -> None:
    batch = batches()[0]
    by_sum, by_mean = set_up(make(weight=2.0)), set_up(make(weight=2.0 * CLASSES, regulariser="mean"))
    perturbation = by_sum.perturb(network(), batch)
    one, other = (method.loss(network(), batch, perturbation) for method in (by_sum, by_mean))
    torch.testing.assert_close(one.total, other.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(one.terms["gap"], CLASSES * other.terms["gap"], rtol=1e-12, atol=0)
    torch.testing.assert_close(one.total, one.terms["adversarial"] + 2 * one.terms["gap"], rtol=1e-12, atol=0)
    assert one.terms["gap"] > 1e-3


@all_three
def test_without_a_weight_the_regulariser_costs_nothing_and_counts_nothing(make) -> None:
    method, model, batch = set_up(make(weight=0.0, smoothing=0.3)), network(), batches()[0]
    perturbation = method.perturb(model, batch)
    loss = method.loss(model, batch, perturbation)
    assert model.state_dict()["network.stage1.1.num_batches_tracked"] == 1
    expected = smoothed_cross_entropy(network()(batch.x + perturbation.delta), batch.y, 1 - 0.3 * 0.9).mean()
    torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-12)


@all_three
@pytest.mark.parametrize(("bn", "moved"), [("train_frozen_stats", 2), ("eval", 2), ("train", 3)])
def test_the_running_statistics_see_the_prior_and_the_adversarial_batch(make, bn, moved: int) -> None:
    method, subject = set_up(make(bn=bn)), learner()
    train_on(method, subject, batches()[0])
    assert subject.network.state_dict()["network.stage1.1.num_batches_tracked"] == moved


@all_three
def test_the_step_is_the_radius_unless_it_is_given(make) -> None:
    batch = middle()
    for alpha, reach in ((None, EPS), ("1/50", 0.02)):
        method = set_up(make(alpha=alpha))
        stored(method).zero_()
        torch.testing.assert_close(method.perturb(Linear(-32.0), batch).delta, torch.full((16, 1, 8, 8), -reach))


@all_three
def test_a_budget_replaces_the_radius_and_the_step_size(make) -> None:
    """Also of what is remembered; its steps do not apply."""
    method, batch = set_up(make(box="none")), middle()
    stored(method).zero_()
    eps = torch.linspace(0.05, 0.2, 16)
    alpha = torch.linspace(0.2, 0.01, 16)
    perturbation = method.perturb(Linear(-32.0), batch, budget=Budget(eps, alpha, torch.zeros(16).long(), rounds=9))
    reach = torch.minimum(eps, alpha).view(-1, 1, 1, 1)
    torch.testing.assert_close(perturbation.delta, -reach.expand(16, 1, 8, 8))
    method.commit(batch, perturbation, NO_LOSS)
    torch.testing.assert_close(method.perturb(Linear(-32.0), batch).start, perturbation.delta)


@all_three
def test_the_start_is_no_part_of_the_radius_but_the_result_is(make) -> None:
    """A smaller radius than the one the memory was filled with."""
    method, batch = set_up(make(box="none")), batches()[0]
    perturbation = method.perturb(network(), batch, budget=Budget(0.01, 0.002, 1))
    assert perturbation.start.abs().max() > 0.09
    assert perturbation.delta.abs().max() <= 0.01 + 1e-15


@all_three
def test_values_that_make_no_sense_are_refused(make) -> None:
    with pytest.raises(BadInput, match="at least 0, not -1"):
        make(weight=-1.0)
    with pytest.raises(BadInput, match="at least 1 epoch, not 0"):
        make(reset=0)
    for decay in (-0.1, 1.1):
        with pytest.raises(BadInput, match=f"lie in \\[0, 1\\], not {decay}"):
            MEP(decay=decay)


def test_the_threat_s_norm_is_respected() -> None:
    threat, batch = Threat("L2", 0.5), batches()[0]
    method = set_up(MEP(alpha=0.3, box="none"), threat)
    perturbation = method.perturb(network(), batch)
    unit = perturbation.gradient / perturbation.gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    moved = perturbation.start + 0.3 * unit
    size = moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(perturbation.delta, moved * (0.5 / size).clamp(max=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("switches", "same"),
    [
        ({"momentum": "sign", "decay": 0.3}, True),
        ({"momentum": "sign", "decay": 0.49}, True),
        ({"momentum": "sign", "decay": 0.9}, False),
        ({}, False),
    ],
)
def test_a_momentum_of_signs_below_a_half_is_no_momentum(switches: dict, same: bool) -> None:
    """A finding (docs/methods/equations.md): |decay m| < 1 when decay < 1/2, so MEP as printed, at the only known decay
    of 0.3, trains the very network that EP trains.
    """
    ends = []
    for method in (MEP(**switches), EP()):
        set_up(method)
        subject = learner()
        for epoch in range(5):
            method.begin_epoch(epoch)
            for batch in batches(epoch):
                train_on(method, subject, batch)
        ends.append(torch.cat([weight.detach().flatten() for weight in subject.network.parameters()]))
    assert torch.equal(ends[0], ends[1]) is same


# One forward for the attack and the loss ---------------------------------------------------------------------------------


def repeating(method: Method) -> Method:
    """The same, with an attack that keeps nothing for the loss."""
    method.perturb_and_loss = partial(Method.perturb_and_loss, method)
    return method


@all_three
@pytest.mark.parametrize("switches", [{}, {"detach_start": True}, {"regulariser": "mean", "smoothing": 0.3}])
def test_a_kept_forward_trains_as_a_repeated_one(make, switches: dict) -> None:
    kept, repeated = harness.bench(make(**switches)), harness.bench(repeating(make(**switches)))
    for one, other in zip(kept.steps(0, 6), repeated.steps(0, 6), strict=True):
        torch.testing.assert_close(one.total, other.total, rtol=0, atol=1e-12)
    pairs = zip(harness.flat(kept.state()), harness.flat(repeated.state()), strict=True)
    for one, other in pairs:  # running statistics and memories, too
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@all_three
def test_in_16_bits_a_kept_forward_trains_as_a_repeated_one(make) -> None:
    torch.set_default_dtype(torch.float32)
    kept, repeated = (harness.bench(method, precision="bf16-mixed") for method in (make(), repeating(make())))
    for one, other in zip(kept.steps(0, 3), repeated.steps(0, 3), strict=True):
        torch.testing.assert_close(one.total, other.total, rtol=0.02, atol=0)


@all_three
def test_a_forward_is_kept_only_where_the_loss_would_repeat_it(make) -> None:
    def forwards(method: Method, change: Callable[[nn.Module], object]) -> int:
        model, seen = network().train(), []
        change(model)
        model.register_forward_hook(lambda *_: seen.append(None))
        set_up(method).perturb_and_loss(model, model, batches()[0])
        return len(seen)

    def kept(method: Method, change: Callable[[nn.Module], object] = lambda model: None) -> bool:
        return forwards(method, change) < forwards(repeating(deepcopy(method)), change)

    assert kept(make())
    assert not kept(make(weight=0.0))
    assert not kept(make(bn="train"))  # would move the running statistics twice
    assert not kept(make(bn="eval"))
    assert not kept(make(), nn.Module.eval)
    norms = [name for name, module in network().named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert not kept(make(), lambda model: model.get_submodule(norms[-1]).eval())
    assert not kept(AWP(make()))


def test_what_is_kept_does_not_outlive_the_step() -> None:
    """The backward pass frees it, so that two steps' graphs are never in memory together."""
    method = set_up(MEP())
    step = train_on(method, learner(), batches()[0])
    assert step.loss.total.requires_grad
    with pytest.raises(RuntimeError, match="second time"):
        step.loss.total.backward()


# FGSM-RS's `previous` --------------------------------------------------------------------------------------------------


def test_bp_without_a_regulariser_is_fgsm_rs_from_the_previous_perturbation() -> None:
    """Wong et al.'s option: from zero, once per run, then from the last batch's by position, not clamped to the new images;
    one step of 1.25 eps; CE alone. Their smaller batches move the first rows only.
    """
    method = set_up(BP(alpha="125/1020", weight=0.0, initial="zero", box="final", bn="train"))  # 1.25 * 25 / 255
    subject, plain = learner(), Plain()
    kept, unclamped = torch.zeros(16, 1, 8, 8), 0
    for epoch in range(2):
        method.begin_epoch(epoch)
        first, second, third, last = batches(epoch)
        for batch in (first, second, part(third, slice(5)), last):
            x, y, start = batch.x, batch.y, kept[: len(batch.y)].clone()
            loss = train_on(method, subject, batch).loss

            gradient = pixel_gradient(plain.network, x + start, lambda z, y=y: smoothed_cross_entropy(z, y).mean())
            delta = boxed(x, clip(start + 1.25 * EPS * gradient.sign()))
            logits = plain.network(x + delta)
            expected = smoothed_cross_entropy(logits, y).mean()
            plain.descend(plain.gradients(expected))
            kept[: len(y)] = delta

            torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
            torch.testing.assert_close(loss.logits, logits, rtol=0, atol=1e-10)
            torch.testing.assert_close(method.buffer, kept, rtol=0, atol=1e-10)
            unclamped += bool((x + start).min() < -0.01)
    assert_same(subject, plain)
    assert unclamped == 7, "only the first start, which is zero, lies in the box"


# Batches made by hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [EP, MEP])
def test_a_batch_that_does_not_say_where_its_images_are_is_refused(make) -> None:
    """In tests `Batch` itself checks its types, which it does not elsewhere."""
    method, batch = set_up(make()), batches()[0]
    method.begin_epoch(0)
    blind = SimpleNamespace(x=batch.x, y=batch.y, index=batch.index, view=None)
    with pytest.raises(
        BadInput, match=r"batch has no view, .*Augment\(\)\.identity\(images, \(H, W\)\) for whole images"
    ):
        method.perturb(network(), blind)
    with pytest.raises(BadInput, match="batch has no index"):
        method.perturb(network(), SimpleNamespace(x=batch.x, y=batch.y, index=None, view=batch.view))
    unaligned = set_up(make(aligned=False))
    unaligned.begin_epoch(0)
    unaligned.perturb(network(), blind)
