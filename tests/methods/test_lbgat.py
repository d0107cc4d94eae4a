"""LBGAT against a transcription of its card, in float64: two networks that descend one loss together."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.data import Batch
from sparring.errors import BadInput
from sparring.learner import Learner
from sparring.methods import AWP, LAS, LBGAT, Perturbation
from sparring.optimisation import Optimisation
from sparring.schedule import Constant, Cyclic, MultiStep
from tests.methods import harness
from tests.methods.harness import train_on
from tests.methods.known_networks import Table
from tests.methods.reference import (
    CLASSES,
    DECAY,
    EPS,
    LR,
    Plain,
    assert_same,
    batches,
    divergence,
    linf_pgd,
    network,
    set_up,
    smoothed_cross_entropy,
)

pytestmark = pytest.mark.usefixtures("double_precision")


def lbgat(beta: float) -> LBGAT:
    attack = PGD(steps=2, alpha=0.06, start="normal", bn="eval")
    return LBGAT(beta=beta, attack=attack, teacher="smallconv", teacher_width=6)


def learner(total: int, **optimisation: object) -> Learner:
    options = Optimisation(epochs=4, batch_size=harness.BATCH, lr=LR, weight_decay=DECAY, **optimisation)
    return Learner(network(), options, Fabric(accelerator="cpu", devices=1, precision="64-true"), total)


class Pair:
    """The student and the teacher under one textbook SGD."""

    def __init__(self, teacher: nn.Module, *, decay_norms: bool = True) -> None:
        self.student, self.teacher, self.decay_norms = Plain(), deepcopy(teacher), decay_norms
        self.weights = [*self.student.network.parameters(), *self.teacher.parameters()]
        self.velocity = [torch.zeros_like(weight) for weight in self.weights]

    def example(self, batch: Batch) -> Tensor:
        """TRADES's: from x + 1e-3 N(0, 1), unclipped, climb KL(p(x) || p(x')) of the student."""
        noise = 1e-3 * torch.randn(batch.x.shape)
        with self.student.mode("eval"):
            clean = self.student.network(batch.x).detach()
            return linf_pgd(
                self.student.network, batch.x, noise, lambda z: divergence(clean, z).sum(), EPS, 0.06, steps=2
            )

    def terms(self, batch: Batch, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The adversarial logits; MSE over images and classes; the teacher's CE; KL."""
        adversarial = self.student.network(x_adv)
        clean = self.student.network(batch.x)
        taught = self.teacher(batch.x)
        boundary = (adversarial - taught).pow(2).sum() / (len(batch.y) * CLASSES)
        natural = smoothed_cross_entropy(taught, batch.y).mean()
        return adversarial, boundary, natural, divergence(clean, adversarial).mean()

    def descend(self, gradients: list[Tensor], lr: float, momentum: float) -> None:
        with torch.no_grad():
            for w, g, v in zip(self.weights, gradients, self.velocity, strict=True):
                decay = DECAY if w.ndim > 1 or self.decay_norms else 0
                v.copy_(momentum * v + g + decay * w)
                w.copy_(w - lr * v)


def assert_teachers_same(method: LBGAT, pair: Pair) -> None:
    expected, initial = pair.teacher.state_dict(), set_up(lbgat(0)).network.state_dict()
    for name, value in method.network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-10)
    assert any((value - initial[name]).abs().max() > 1e-3 for name, value in expected.items())


SCHEDULES = {  # with the rate's factor and the momentum at each of six steps
    "drop": ({"schedule": MultiStep(("1/2",))}, [1, 1, 1, 0.1, 0.1, 0.1], [0.9] * 6),
    "momentum too": (
        {"schedule": Cyclic(lowest_momentum=0.6)},
        [0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3],
        [0.9, 0.8, 0.7, 0.6, 0.7, 0.8],
    ),
    "norms spared": ({"schedule": MultiStep(("1/2",)), "decay_norms": False}, [1, 1, 1, 0.1, 0.1, 0.1], [0.9] * 6),
}


@pytest.mark.parametrize(("options", "factors", "momenta"), SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_lbgat_steps_as_its_card_says(beta: float, options: dict, factors: list, momenta: list) -> None:
    """One SGD on MSE(z_S(x'), z_T(x)) + CE(z_T(x), y) + beta KL(p_S(x) || p_S(x')); BatchNorm sees x' first."""
    method, subject = set_up(lbgat(beta)), learner(6, **options)
    pair = Pair(method.network, decay_norms=options.get("decay_norms", True))
    for step, batch in enumerate((batches() + batches(1))[:6]):
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        adversarial, boundary, natural, gap = pair.terms(batch, pair.example(batch))
        total = boundary + natural + beta * gap
        pair.descend(list(torch.autograd.grad(total, pair.weights)), LR * factors[step], momenta[step])

        torch.testing.assert_close(loss.total, total, rtol=0, atol=1e-10)
        torch.testing.assert_close(loss.logits, adversarial, rtol=0, atol=1e-10)
        expected = {"boundary": boundary, "natural": natural, "divergence": gap}
        torch.testing.assert_close(dict(loss.terms), expected, rtol=0, atol=1e-10)
    assert_same(subject, pair.student)
    assert_teachers_same(method, pair)


def test_around_lbgat_awp_shifts_the_student_and_the_teacher_takes_one_step_a_step() -> None:
    """v of the student's matrices from the joint loss at w; then both descend it with the student at w + v.

    Only the teacher's running statistics, which nobody uses, see each batch twice.
    """
    inner = lbgat(6.0)
    method, subject = set_up(AWP(inner, gamma=0.05)), learner(100)
    pair = Pair(inner.network)
    for step, batch in enumerate(batches()):
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        x_adv = pair.example(batch)
        with pair.student.mode("train_frozen_stats"):
            _, boundary, natural, gap = pair.terms(batch, x_adv)
            ascent = pair.student.gradients(boundary + natural + 6 * gap)
        student = list(pair.student.network.parameters())
        before = [w.detach().clone() for w in student]
        with torch.no_grad():
            for w, g in zip(student, ascent, strict=True):
                if w.ndim > 1:
                    w.add_(0.05 * w.square().sum().sqrt() * g / g.square().sum().sqrt())
        _, boundary, natural, gap = pair.terms(batch, x_adv)
        gradients = list(torch.autograd.grad(boundary + natural + 6 * gap, pair.weights))
        with torch.no_grad():
            for w, value in zip(student, before, strict=True):
                w.copy_(value)
        pair.descend(gradients, LR, 0.9)
        torch.testing.assert_close(loss.total, boundary + natural + 6 * gap, rtol=0, atol=1e-10)
    assert_same(subject, pair.student)
    assert_teachers_same(inner, pair)


class Says(nn.Module):
    """A teacher whose logits are its parameters."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_the_teacher_is_not_detached_and_the_student_has_no_label(beta: float) -> None:
    """With the teacher's logits t and the student's s, p(x) and q = p(x'): d/dt = 2 (t - s) / BC + (softmax t - e_y) / B,

    d/ds = 2 (s - t) / BC + beta (q - p) / B; the label enters nowhere else.
    """
    batch = batches()[0]
    size = len(batch.y)
    torch.manual_seed(0)
    clean, adversarial = (torch.randn(size, CLASSES, requires_grad=True) for _ in range(2))
    method = set_up(lbgat(beta))
    method.network = Says(torch.randn(size, CLASSES))
    method.loss(Table(adversarial, clean), batch, Perturbation(torch.zeros_like(batch.x))).total.backward()

    t, s, p = method.network.logits.detach(), adversarial.detach(), clean.detach().softmax(1)
    pull = 2 * (t - s) / (size * CLASSES)
    one_hot = nn.functional.one_hot(batch.y, CLASSES)
    torch.testing.assert_close(method.network.logits.grad, pull + (t.softmax(1) - one_hot) / size, rtol=0, atol=1e-12)
    torch.testing.assert_close(adversarial.grad, -pull + beta * (s.softmax(1) - p) / size, rtol=0, atol=1e-12)
    assert (clean.grad.abs().max() > 1e-3) == (beta > 0)


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_the_student_s_running_statistics_see_the_clean_images_whatever_beta(beta: float) -> None:
    method, subject = set_up(lbgat(beta)), learner(100)
    train_on(method, subject, batches()[0])
    counts = [value for name, value in subject.network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts == [2] * 4


def test_the_attack_is_the_same_whatever_beta() -> None:
    model, batch = network(), batches()[0]
    found = []
    for beta in (0.0, 6.0):
        torch.manual_seed(0)
        found.append(set_up(lbgat(beta)).perturb(model, batch).delta)
    assert torch.equal(*found)
    assert found[0].abs().max() > 0.9 * EPS


def test_a_teacher_is_made_from_the_run_s_seed_and_leaves_the_noise_alone() -> None:
    teachers, draws = [], []
    for seed in (0, 0, 1):
        torch.manual_seed(5)
        method = lbgat(0.0)
        method.setup(replace(harness.task(), seed=seed))
        teachers.append(method.network.state_dict())
        draws.append(torch.rand(3))
    assert harness.identical(teachers[0], teachers[1])
    assert not harness.identical(teachers[0], teachers[2])
    assert torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_the_teacher_learns_the_digits_and_the_student_learns_them_from_it(beta: float) -> None:
    """The student never sees a label."""
    torch.set_default_dtype(torch.float32)
    attack = PGD(steps=2, alpha="10/255", start="normal")
    method = LBGAT(beta=beta, attack=attack, teacher="smallconv", teacher_width=8)
    subject = harness.bench(method, width=8, schedule=Constant())
    images = harness.batch_of(harness.digits(), slice(None))

    def losses() -> list[float]:
        networks = (subject.method.network, subject.learner.network)
        with torch.no_grad():
            return [
                smoothed_cross_entropy(each(images.x), images.y).mean().item() for each in map(_evaluated, networks)
            ]

    before = losses()
    subject.steps(0, 80)
    after = losses()
    assert after[0] < 0.6 * before[0]
    assert after[1] < 0.85 * before[1]


def _evaluated(model: nn.Module) -> nn.Module:
    return deepcopy(model).train()


# Refusals --------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BadInput, match="LBGAT needs beta >= 0, not -1"):
        LBGAT(beta=-1)
    with pytest.raises(BadInput, match="LBGAT cannot start its attack at zero"):
        LBGAT(attack=PGD(start="zero"))
    with pytest.raises(BadInput, match="LBGAT attacks by its own divergence"):
        LBGAT(attack=PGD(start="normal", objective="margin"))


@pytest.mark.parametrize(
    ("method", "shape", "said"),
    [
        (LBGAT(teacher="resnet19"), (1, 8, 8), "Unknown model 'resnet19'.*resnet18"),
        (LBGAT(), (1, 4, 4), "'resnet18' needs images of at least 8x8 pixels, got 4x4"),
        (LBGAT(teacher="wrn-10-1", teacher_width=8), (1, 8, 8), "'wrn-10-1' has no width to set, got 8"),
        (LAS(LBGAT()), (1, 8, 8), "LBGAT leaves it nothing to choose"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_in_setup(method, shape: tuple, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        method.setup(replace(harness.task(), shape=shape))


def test_the_defaults_are_the_paper_s() -> None:
    attack = PGD(steps=10, alpha=None, start="normal", bn="eval")
    assert LBGAT() == LBGAT(beta=0.0, attack=attack, teacher="resnet18", teacher_width=None)


def test_another_optimizer_than_the_teacher_s_is_refused() -> None:
    with pytest.raises(BadInput, match="by one SGD, not by adamw"):
        LBGAT(teacher="smallconv").setup(replace(harness.task(), optimizer="adamw"))
