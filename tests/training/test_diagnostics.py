"""What a run notes of itself: the figures are right, the files survive a kill, and the training does not feel it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sparring
from sparring import configuration
from sparring.attacks import PGD
from sparring.data import Batch, load
from sparring.errors import BadInput
from sparring.experiment import Experiment, train
from sparring.learner import Learner
from sparring.methods import AWP, BP, EP, MEP, TRADES, AdversarialTraining, Standard
from sparring.threat import Threat
from sparring.training import Diagnostics, Interrupted, Run, Selection, checkpoint, session, train_step
from sparring.training.diagnostics import Observer
from sparring.training.progress import Silent
from sparring.training.statistics import StepStatistics
from tests.methods.cases import CASES, Case
from tests.methods.harness import AUGMENT, BATCH, LINF, batches, bench, digits, identical
from tests.syncs import NoHostSync
from tests.training.runs import Interrupts, experiment, killed_at, same

FULL = Diagnostics(every=2, images=5, train_images=40)
USUAL = ("epoch", "train_loss", "train_accuracy", "steps", "train_seconds", "clean", "robust", "validation_seconds")
LOOKED = ("delta_l2", "start_l2", "move_l2", "delta_saturated", "delta_zero", "gradient_square")
every_method = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@dataclass
class Talkative(AdversarialTraining):
    """Reports two numbers and a vector, and says two things of each image."""

    name: str = "calm"

    def metrics(self) -> Mapping[str, Tensor]:
        return {self.name: torch.tensor(0.5), "shares": torch.tensor([0.25, 0.75]), "none": torch.tensor(torch.nan)}

    def inspect(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"brightness": batch.x.mean((1, 2, 3)), "label": batch.y}


# Values ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def witnessed(monkeypatch) -> Iterator[dict[str, list]]:
    """What every step of a run perturbed its images by, and its gradients before they were clipped."""
    seen: dict[str, list] = {"steps": [], "gradients": []}
    backward = Learner.backward

    def watched_step(method, target, batch, phase):
        step = train_step(method, target, batch, phase)
        seen["steps"].append(step.perturbation)
        return step

    def watched_backward(self, loss, **how):
        backward(self, loss, **how)
        seen["gradients"].append([p.grad.clone() for p in self.network.parameters()])

    monkeypatch.setattr(session, "train_step", watched_step)
    monkeypatch.setattr(Learner, "backward", watched_backward)
    return seen


def expected(perturbations: list, gradients: list, eps: float) -> dict[str, float]:
    """The columns by hand: image by image, number by number."""
    deltas = [image for p in perturbations for image in p.delta.double()]
    starts = [image for p in perturbations for image in p.start.double()]
    count = len(deltas)
    return {
        "delta_l2": sum(math.sqrt((d**2).sum()) for d in deltas) / count,
        "start_l2": sum(math.sqrt((s**2).sum()) for s in starts) / count,
        "move_l2": sum(math.sqrt(((d - s) ** 2).sum()) for d, s in zip(deltas, starts, strict=True)) / count,
        "delta_saturated": sum(int((d.abs() >= 0.999 * eps).sum()) / d.numel() for d in deltas) / count,
        "delta_zero": sum(int((d.abs() < 0.001 * eps).sum()) / d.numel() for d in deltas) / count,
        "gradient_square": sum(float((g.double() ** 2).sum()) for step in gradients for g in step) / len(gradients),
    }


@pytest.mark.parametrize("clip", [None, 0.05], ids=["free", "clipped"])
def test_the_columns_are_the_means_over_the_steps_that_are_looked_at(clip, witnessed, tmp_path) -> None:
    """Steps 0 and 3 of the four of an epoch, the last of which has 44 images instead of 64."""
    chosen = experiment(MEP(), epochs=2, diagnostics=Diagnostics(every=3))
    chosen = replace(chosen, optimisation=replace(chosen.optimisation, clip=clip))
    rows = train(chosen, tmp_path, report=Silent()).metrics()
    squares = []
    for epoch, row in enumerate(rows):
        steps = [4 * epoch, 4 * epoch + 3]
        by_hand = expected(
            [witnessed["steps"][step] for step in steps], [witnessed["gradients"][step] for step in steps], 0.2
        )
        assert {name: row[name] for name in by_hand} == pytest.approx(by_hand, rel=1e-5)
        squares.append(by_hand["gradient_square"])
        assert row["gradient_square_mean"] == pytest.approx(sum(squares) / len(squares), rel=1e-5)
    assert 0.1 < rows[0]["delta_saturated"] < 0.9
    assert 0.1 < rows[0]["delta_zero"] < 0.9
    if clip is not None:
        assert rows[0]["gradient_square"] > 2 * clip**2


def test_the_usual_columns_come_first_and_the_attack_s_success_is_always_there(tmp_path) -> None:
    run = train(experiment(MEP(), epochs=1, diagnostics=Diagnostics(every=0)), tmp_path / "without", report=Silent())
    (row,) = run.metrics()
    assert tuple(row) == (*USUAL, "attack_success")
    assert row["attack_success"] == 1 - row["train_accuracy"]
    assert not (run.folder / "diagnostics").exists()
    (row,) = train(experiment(Talkative(), epochs=1, diagnostics=FULL), tmp_path / "with", report=Silent()).metrics()
    notes = ("attack_success", "train_clean", "train_robust", *LOOKED, "gradient_square_mean", "calm", "none")
    assert tuple(row) == (*USUAL, *notes)


def test_what_a_method_or_a_norm_has_not_is_not_a_number(tmp_path) -> None:
    """Standard training has no start; no single component of an L2 perturbation is at the radius."""
    (standard,) = train(experiment(Standard(), epochs=1), tmp_path / "standard", report=Silent()).metrics()
    assert [name for name in LOOKED if math.isnan(standard[name])] == ["start_l2", "move_l2"]
    assert (standard["delta_l2"], standard["delta_saturated"], standard["delta_zero"]) == (0, 0, 1)
    chosen = experiment(AdversarialTraining(), epochs=1, threat=Threat("L2", 0.5))
    (in_l2,) = train(chosen, tmp_path / "l2", report=Silent()).metrics()
    assert [name for name in LOOKED if math.isnan(in_l2[name])] == ["delta_saturated"]
    assert 0.1 < in_l2["delta_l2"] <= 0.5


def test_the_accuracy_on_training_images_is_that_of_an_evaluation(tmp_path) -> None:
    chosen = experiment(AdversarialTraining(), epochs=2, diagnostics=Diagnostics(train_images=40))
    row = train(chosen, tmp_path, report=Silent()).metrics()[-1]
    images = chosen.diagnostics.pick(load(chosen.data).train, chosen.seed)
    network = sparring.load(tmp_path, "last")
    found = sparring.evaluate(
        network, images, chosen.threat, ["clean", "pgd-2"], doctor=False
    )  # which knows the images
    assert (row["train_clean"], row["train_robust"]) == (found.accuracy("clean"), found.accuracy("pgd-2"))
    assert 0 < row["train_robust"] < row["train_clean"]


def test_the_training_images_to_be_evaluated_on_are_drawn_once_from_all() -> None:
    images = digits()
    drawn = Diagnostics(train_images=20).pick(images, seed=0).index
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert len(drawn) == 20
    assert drawn.max() > 40
    assert torch.equal(drawn, Diagnostics(train_images=20).pick(images, seed=0).index)
    assert not torch.equal(drawn, Diagnostics(train_images=20).pick(images, seed=1).index)
    assert torch.equal(Diagnostics(train_images=1000).pick(images, seed=0).index, images.index)


# Files -----------------------------------------------------------------------------------------------------------------


def test_what_a_method_says_becomes_columns_and_files(tmp_path) -> None:
    chosen = experiment(Talkative(), epochs=2, diagnostics=FULL)
    run = train(chosen, tmp_path, report=Silent())
    assert [row["calm"] for row in run.metrics()] == [0.5, 0.5]
    assert all(math.isnan(row["none"]) for row in run.metrics())
    assert run.diagnostic("shares") == [{"epoch": epoch, "0": 0.25, "1": 0.75} for epoch in (0, 1)]
    images = load(chosen.data).train
    brightness = (images.pixels[:5] / 255).mean((1, 2, 3))
    for epoch, row in enumerate(run.diagnostic("brightness")):
        assert list(row) == ["epoch", "0", "1", "2", "3", "4"]
        assert list(row.values()) == pytest.approx([epoch, *brightness.tolist()])
    assert list(run.diagnostic("label")[0].values())[1:] == images.labels[:5].tolist()
    with pytest.raises(BadInput, match="There is no .*actions_eps.csv"):
        run.diagnostic("actions_eps")


def test_a_report_cannot_pass_for_a_column_of_the_run(tmp_path) -> None:
    with pytest.raises(BadInput, match="Talkative reports 'robust', a column that every run has"):
        train(experiment(Talkative(name="robust"), epochs=1), tmp_path, report=Silent())


def test_the_perturbations_of_followed_images_are_stored_as_the_method_would_make_them(tmp_path) -> None:
    """EP's start is what it remembers, cut out of the middle of the canvas; its delta is within the ball and the box."""
    run = train(experiment(EP(), epochs=3, diagnostics=Diagnostics(images=5)), tmp_path, report=Silent())
    found = run.perturbations()
    assert list(found) == [0, 1, 2]
    last = found[2]
    assert last["index"].tolist() == [0, 1, 2, 3, 4]
    x = load(experiment(EP()).data).train.pixels[:5] / 255
    remembered = checkpoint.load(run.last)["method"]["perturbations"]["rows"][:5, :, 1:-1, 1:-1]
    assert torch.equal(last["start"], ((x + remembered).clamp(0, 1) - x).half())
    delta = last["delta"].float()
    assert 0.19 < delta.abs().max() < 0.2002
    assert (x + delta).min() > -1e-4
    assert (x + delta).max() < 1 + 1e-4
    assert not torch.equal(found[1]["delta"], last["delta"])


def test_a_method_without_a_start_has_none_in_the_file(tmp_path) -> None:
    run = train(experiment(Standard(), epochs=1, diagnostics=Diagnostics(images=3)), tmp_path, report=Silent())
    (only,) = run.perturbations().values()
    assert sorted(only) == ["delta", "index"]
    assert torch.equal(only["delta"], torch.zeros(3, 1, 8, 8, dtype=torch.float16))


def files(folder: Path) -> dict[str, bytes]:
    """Those of diagnostics/, and metrics.csv without its seconds."""
    found = {path.name: path.read_bytes() for path in (folder / "diagnostics").iterdir()}
    rows = [{name: value for name, value in row.items() if "seconds" not in name} for row in Run(folder).metrics()]
    return found | {"metrics.csv": repr(rows).encode()}


def test_a_resumed_run_leaves_the_files_of_one_that_was_left_alone(tmp_path) -> None:
    """Three epochs of four steps: killed in the second epoch, and stopped there after a step that was looked at."""
    chosen = experiment(AWP(TRADES(attack=PGD(steps=2, start="normal"))), diagnostics=FULL)
    config = tmp_path / "experiment.yaml"
    config.write_text(configuration.to_yaml(chosen))
    train(chosen, tmp_path / "whole", report=Silent())
    killed_at(6, config, tmp_path / "killed")
    with pytest.raises(Interrupted):
        train(chosen, tmp_path / "stopped", report=Interrupts(6))
    for name in ("killed", "stopped"):
        train(configuration.read(Experiment, config), tmp_path / name, resume=True, report=Silent())
        assert files(tmp_path / name) == files(tmp_path / "whole")
    assert len(files(tmp_path / "whole")) == 4


def test_the_tables_of_a_resumed_run_are_whole(tmp_path) -> None:
    chosen = experiment(Talkative(), diagnostics=FULL)
    train(chosen, tmp_path / "whole", report=Silent())
    with pytest.raises(Interrupted):
        train(chosen, tmp_path / "run", report=Interrupts(6))
    train(chosen, tmp_path / "run", resume=True, report=Silent())
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    assert len(Run(tmp_path / "run").diagnostic("shares")) == 3


# Harmlessness ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        BP,
        MEP,
        lambda: AWP(TRADES(attack=PGD(steps=2, start="normal"))),
        lambda: AdversarialTraining(PGD(2, bn="train")),
    ],
    ids=["BP", "MEP", "AWP(TRADES)", "PGD-2"],
)
def test_a_run_ends_bit_for_bit_as_it_would_without_diagnostics(make, tmp_path) -> None:
    states, random = [], []
    for name, options in (("without", Diagnostics(every=0)), ("with", FULL)):
        run = train(experiment(make(), diagnostics=options), tmp_path / name, report=Silent())
        random.append(torch.random.get_rng_state())
        states.append(checkpoint.load(run.last))
        for part in ("configuration", "diagnostics", "history"):
            del states[-1][part]
    assert same(*states)
    assert torch.equal(*random)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("without", "with")]
    assert weights[0] == weights[1]


def observer(folder: Path, every: int = 1) -> Observer:
    followed = Diagnostics(images=5).follow(digits(), AUGMENT, BATCH, torch.device("cpu"))
    return Observer(every, followed, LINF, 0, Run(folder), torch.device("cpu"))


@every_method
def test_no_method_notices_that_images_are_followed(case: Case, tmp_path: Path) -> None:
    """Weights, buffers, flags, random generator and state are as before, and three more steps end as they would have."""
    alone, followed = bench(case.make()), bench(case.make())
    for subject in (alone, followed):
        subject.steps(0, 5)
    random = torch.random.get_rng_state()
    modes = [module.training for module in followed.learner.network.modules()]
    observer(tmp_path, every=0).conclude({"epoch": 0.0}, [], followed.method, followed.learner)
    assert Run(tmp_path).perturbations()[0]["delta"].shape == (5, 1, 8, 8)
    assert torch.equal(random, torch.random.get_rng_state())
    assert modes == [module.training for module in followed.learner.network.modules()]
    assert all(p.requires_grad for p in followed.learner.network.parameters())
    assert identical(alone.state(), followed.state())
    for subject in (alone, followed):
        subject.steps(5, 8)
    assert identical(alone.state(), followed.state())


@every_method
def test_a_look_never_reads_a_tensor(case: Case, tmp_path: Path) -> None:
    subject = bench(case.make(), clip=1.0)
    notes = observer(tmp_path)
    subject.method.begin_epoch(0)
    batch = batches()[0]
    with NoHostSync():
        step = train_step(subject.method, subject.learner, batch)
        notes.look(0, step.perturbation, subject.learner)


def test_the_same_epoch_is_followed_with_the_same_noise_and_another_with_other_noise(tmp_path: Path) -> None:
    subject = bench(AdversarialTraining(PGD(1, start="uniform")))
    subject.steps(0, 1)
    for folder, epoch in (("a", 3), ("b", 3), ("c", 4)):
        row = {"epoch": float(epoch)}
        observer(tmp_path / folder, every=0).conclude(row, [], subject.method, subject.learner)
        torch.rand(7)
    a, b, c = (next(iter(Run(tmp_path / folder).perturbations().values()))["start"] for folder in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


# Refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["every", "images", "train_images"])
def test_negative_numbers_are_refused(name) -> None:
    with pytest.raises(BadInput, match=f"diagnostics.{name} must be at least 0, not -1"):
        Diagnostics(**{name: -1})


def test_no_more_than_a_batch_can_be_followed() -> None:
    chosen = experiment(BP(), diagnostics=Diagnostics(images=65))
    with pytest.raises(BadInput, match="diagnostics.images is 65, but at most one batch .* 64 or less"):
        chosen.trainer(Run(Path("unused")), Silent())
    experiment(BP(), diagnostics=Diagnostics(images=64)).trainer(Run(Path("unused")), Silent())


def test_fewer_images_than_asked_for_are_all_followed() -> None:
    batch = Diagnostics(images=60).follow(digits(40), AUGMENT, 64, torch.device("cpu"))
    assert batch.index.tolist() == list(range(40))
    assert Diagnostics().follow(digits(40), AUGMENT, 64, torch.device("cpu")) is None


def test_the_section_is_read_from_yaml() -> None:
    text = "method: Standard\ndiagnostics: {every: 5, images: 8}\nselection: {attack: pgd-2}\n"
    chosen = configuration.read(Experiment, text, ["--diagnostics.train_images", "100"])
    assert (chosen.diagnostics, chosen.selection) == (Diagnostics(5, 8, 100), Selection(attack="pgd-2"))
    assert configuration.read(Experiment, "method: Standard\n").diagnostics == Diagnostics()


def test_looks_start_at_nothing() -> None:
    with pytest.raises(ZeroDivisionError):
        StepStatistics(LINF, torch.device("cpu")).row()
