"""Our step does what the usual research step does, so that `benchmarks/speed.py` compares equal with equal."""

import json

import pytest
import torch
from lightning_fabric import Fabric

import speed
from research import ResearchMEP, ResearchPGD
from sparring.attacks import PGD, draw_start
from sparring.data import Augment, Batch
from sparring.learner import Learner, Optimisation
from sparring.methods import AdversarialTraining, Task
from sparring.models import create
from sparring.threat import Ratio, Threat
from sparring.training import train_step

SAMPLES, SIZE, PAD, CLASSES = 6, 16, 4, 10
THREAT = Threat()
TASK = Task(
    threat=THREAT,
    samples=SAMPLES,
    shape=(3, SIZE, SIZE),
    canvas=(3, SIZE + 2 * PAD, SIZE + 2 * PAD),
    classes=CLASSES,
    batch_size=SAMPLES,
    epochs=1,
    device=torch.device("cpu"),
)


def network():
    torch.manual_seed(0)
    return create("resnet18", CLASSES, size=SIZE, width=4).double().train()


@pytest.fixture
def learner():
    """In double precision, where no rounding can turn the sign of a gradient."""
    torch.set_default_dtype(torch.float64)  # also of Fabric's outputs and of our memories
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    yield Learner(network(), Optimisation(), fabric, total=10**9)
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def rival():
    """The same weights, and the scripts' optimizer."""
    twin = network()
    return twin, torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (SAMPLES, 3, SIZE, SIZE), generator=generator).double() / 255


@pytest.fixture
def batch(images):
    augment = Augment(PAD, flip=True)
    view = augment.draw(SAMPLES, (SIZE, SIZE), torch.Generator().manual_seed(2))
    index = torch.tensor([3, 0, 5, 1, 4, 2])
    return Batch(view.show(augment.canvas(images)[index]), index % CLASSES, index, view)


def moved(learner, twin):
    """The largest difference of a tensor, relative to how far the step moved it; all of them must have moved."""
    ours, theirs, before = learner.network.state_dict(), twin.state_dict(), network().state_dict()
    differences = []
    for name in ours.keys() - {"mean", "std"}:
        distance = (theirs[name] - before[name]).double().norm()
        assert distance > 0, name
        differences.append((ours[name] - theirs[name]).double().norm() / distance)
    return float(max(differences))


def adversarial_step(learner, batch, attack):
    method = AdversarialTraining(attack)
    method.setup(TASK)
    torch.manual_seed(3)
    train_step(method, learner, batch)
    torch.manual_seed(3)
    return draw_start("uniform", batch.x, THREAT, THREAT.eps)


ATTACKS = [
    pytest.param(PGD(steps=1, alpha=Ratio("10/255"), bn="train"), id="fgsm-rs"),
    pytest.param(PGD(steps=10, alpha=Ratio("2/255"), bn="train"), id="pgd-10"),
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_adversarial_training_is_the_research_step(learner, rival, batch, attack):
    start = adversarial_step(learner, batch, attack)
    ResearchPGD(*rival, THREAT.eps, attack.alpha, attack.steps).step(batch.x, batch.y, start)
    assert moved(learner, rival[0]) < 1e-9


@pytest.mark.parametrize(("eps", "alpha"), [(1.02, 1), (1, 0.9)], ids=["eps", "alpha"])
def test_another_adversarial_step_is_noticed(learner, rival, batch, eps, alpha):
    attack = PGD(steps=1, alpha=Ratio("10/255"), bn="train")
    start = adversarial_step(learner, batch, attack)
    ResearchPGD(*rival, eps * THREAT.eps, alpha * attack.alpha, attack.steps).step(batch.x, batch.y, start)
    assert moved(learner, rival[0]) > 1e-4


def mep_steps(learner, rival, batch, images, **other):
    """One step of each from the same memory, in which the momentum is not zero."""
    method = speed.released_mep()
    method.setup(TASK)
    method.begin_epoch(0)
    method.momenta.rows.normal_(generator=torch.Generator().manual_seed(4)).div_(batch.x.numel())
    side = ResearchMEP(*rival, images, torch.arange(SAMPLES) % CLASSES, PAD, THREAT.eps, CLASSES, **other)
    side.all_delta.copy_(method.perturbations.rows)
    side.all_momentum.copy_(method.momenta.rows)
    view = batch.view
    train_step(method, learner, batch)
    side.step(batch.index, list(zip(view.top.tolist(), view.left.tolist(), view.flip.tolist(), strict=True)))
    return method, side


def test_mep_is_the_research_step(learner, rival, batch, images):
    method, side = mep_steps(learner, rival, batch, images)
    assert moved(learner, rival[0]) < 1e-9
    torch.testing.assert_close(method.perturbations.rows, side.all_delta, rtol=0, atol=1e-14)
    torch.testing.assert_close(method.momenta.rows, side.all_momentum, rtol=1e-9, atol=0)


@pytest.mark.parametrize("other", [{"weight": 9.0}, {"kept": 0.9}])
def test_another_mep_step_is_noticed(learner, rival, batch, images, other):
    mep_steps(learner, rival, batch, images, **other)
    assert moved(learner, rival[0]) > 1e-4


def test_another_momentum_is_noticed(learner, rival, batch, images):
    method, side = mep_steps(learner, rival, batch, images, decay=0.9)
    assert moved(learner, rival[0]) < 1e-9  # it only matters for the next start
    assert not torch.allclose(method.momenta.rows, side.all_momentum, rtol=1e-2)
    assert not torch.allclose(method.perturbations.rows, side.all_delta)


def test_the_released_initial_prior_is_the_radius_with_random_signs(rival, images):
    side = ResearchMEP(*rival, images, torch.arange(SAMPLES), PAD, THREAT.eps, CLASSES)
    assert torch.equal(side.all_delta.abs(), torch.full_like(side.all_delta, float(THREAT.eps)))


def test_the_script_measures_compares_and_records(tmp_path, capsys):
    file = tmp_path / "speed.json"
    small = ["--width", "8", "--size", "8", "--batch", "4", "--steps", "2", "--pairs", "2", "--device", "cpu"]
    assert speed.main([*small, "--methods", "standard", "mep", "--variants", "fp32", "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    assert [row["method"] for row in record["methods"]] == ["standard", "mep"]
    (race,) = record["against_research"]
    assert race["difference"] < speed.TOLERANCE
    assert len(race["research"]) == len(race["ours"]["fp32"]) == 2
    assert str(tmp_path) not in file.read_text()
    assert "research ms" in capsys.readouterr().out


def test_unequal_sides_are_not_timed(monkeypatch, capsys):
    monkeypatch.setitem(speed.RIVALLED, "mep", lambda: speed.MEP(momentum="gradient", aligned=False, box="final"))
    small = ["--width", "8", "--size", "8", "--batch", "4", "--only", "research", "--methods", "mep"]
    assert speed.main([*small, "--device", "cpu"]) == 1
    assert "differ" in capsys.readouterr().err


def test_a_batch_that_rounds_differently_is_refused(capsys):
    small = ["--width", "8", "--size", "8", "--batch", "6", "--only", "research", "--methods", "pgd-10"]
    assert speed.main([*small, "--device", "cpu"]) == 2
    assert "Write 8" in capsys.readouterr().err


def test_bad_input_is_one_sentence(capsys):
    assert speed.main(["--model", "resnet19", "--methods", "standard", "--device", "cpu"]) == 2
    assert "did you mean 'resnet18'" in capsys.readouterr().err
