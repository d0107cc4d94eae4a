"""What `benchmarks/speed/frameworks.py` says of other libraries' mathematics is so, and its script measures and records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import (
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerFBFPyTorch,
    AdversarialTrainerMadryPGD,
)
from art.defences.trainer.trainer import Trainer
from art.estimators.classification import PyTorchClassifier

from benchmarks.harness import timing
from benchmarks.harness.ours import Ours
from benchmarks.harness.scene import Scene
from benchmarks.opponents import art_trainers
from benchmarks.opponents.art_trainers import Gym
from benchmarks.opponents.loops import OPPONENTS, ByMair
from benchmarks.opponents.mair import MairAWP
from benchmarks.opponents.match import TOLERANCE, apart, difference
from benchmarks.speed import frameworks
from sparring.attacks import PGD, BatchNormMode
from sparring.data import Augment, Batch
from sparring.methods import AWP, AdversarialTraining, Method
from sparring.training import train_step

SCENE = Scene(width=4, batch=8, size=16, accelerator="cpu")
GYM = Gym(SCENE, torch.device("cpu"), batches=1)
MAIR = {name: opponent for name, opponent in OPPONENTS.items() if isinstance(opponent, ByMair)}


@pytest.mark.parametrize("opponent", MAIR.values(), ids=MAIR.keys())
def test_a_step_of_mair_is_ours_where_the_table_says_so(opponent: ByMair) -> None:
    found = difference(opponent.pair, SCENE)
    assert found > 1e-2 if opponent.unlike else found < TOLERANCE


ZERO = PGD(start="zero", bn="eval")
SETTINGS = {**art_trainers.PGD, "num_random_init": 0}


def theirs_and_ours(trainer: Trainer, classifier: PyTorchClassifier, method: Method, scene: Scene = SCENE) -> float:
    """How far apart ART and we end on the same batch, without random draws, in single precision."""
    GYM.session(trainer)()
    ours = Ours(scene, method)
    pixels, labels = (torch.from_numpy(part) for part in GYM.images())
    index = torch.arange(len(pixels))
    batch = Batch(pixels, labels.argmax(1), index, Augment().identity(len(pixels), (SCENE.size, SCENE.size)))
    train_step(method, ours.learner, batch)
    return apart(ours.learner.network, classifier.model, SCENE.network())


@pytest.mark.parametrize(("bn", "equal"), [("eval", True), ("train", False)])
def test_pgd_of_art_is_ours_in_evaluation_mode(bn: BatchNormMode, equal: bool) -> None:
    classifier = GYM.classifier()
    trainer = AdversarialTrainerMadryPGD(classifier, **SETTINGS)
    found = theirs_and_ours(trainer, classifier, AdversarialTraining(replace(ZERO, bn=bn)))
    assert found < 1e-4 if equal else found > 1e-2


@pytest.mark.parametrize(("decay", "equal"), [(0.0, True), (0.05, False)])
def test_awp_of_art_is_ours_but_for_weight_decay(decay: float, equal: bool) -> None:
    scene = replace(SCENE, optimisation=replace(SCENE.optimisation, weight_decay=decay))
    gym = replace(GYM, scene=scene)
    classifier = gym.classifier()
    attack = ProjectedGradientDescent(classifier, **SETTINGS, verbose=False)
    trainer = AdversarialTrainerAWPPyTorch(classifier, gym.proxy(), attack, mode="PGD", gamma=0.01, warmup=0, beta=6.0)
    found = theirs_and_ours(trainer, classifier, AWP(AdversarialTraining(ZERO)), scene)
    assert found < 1e-4 if equal else found > 1e-3


def test_fbf_of_art_never_moves_the_statistics_of_batch_norm() -> None:
    gym = replace(GYM, batches=2)  # its schedule ends at a rate of 0
    classifier = gym.classifier()
    gym.session(AdversarialTrainerFBFPyTorch(classifier, eps=art_trainers.EPS))()
    before, after = SCENE.network().state_dict(), classifier.model.state_dict()
    moved = {name.rsplit(".")[-1] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"weight", "bias"}


def test_pgd_of_art_attacks_in_parts_of_32_images() -> None:
    assert AdversarialTrainerMadryPGD(GYM.classifier(), **art_trainers.PGD).attack.batch_size == 32


def test_trainers_of_art_get_as_many_images_as_ours() -> None:
    pixels, labels = Gym(SCENE, torch.device("cpu"), batches=5).images()  # more than there are
    assert pixels.shape == (5 * SCENE.batch, 3, SCENE.size, SCENE.size)
    assert (pixels[: SCENE.batch] == pixels[4 * SCENE.batch :]).all()
    assert labels.sum(1).tolist() == [1] * 5 * SCENE.batch


TINY = ["--width", "8", "--size", "8", "--batch", "4", "--device", "cpu", "--rounds", "1", "--batches", "1"]


def test_the_script_compares_every_opponent_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "frameworks.json"
    assert frameworks.main([*TINY, "--variants", "channels-last", "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    assert [found["loop"] for found in record["against_libraries"]] == [it.loop for it in OPPONENTS.values()]
    for found in record["against_libraries"]:
        assert len(found["theirs"]) == 1
        assert {name: len(times) for name, times in found["ours"].items()} == {"fp32": 1, "channels-last": 1}
    assert str(tmp_path) not in file.read_text()
    out = capsys.readouterr().out
    assert "ART MadryPGD " in out
    assert "ART AWP*" in out


def test_times_are_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    monkeypatch.setattr(Ours, "step", lambda ours: steps.append(ours))
    monkeypatch.setattr(MairAWP, "step", lambda script, batch: steps.append(script))
    monkeypatch.setattr(timing, "seconds", lambda work, device: work() or 6.0)
    found = frameworks.bout(OPPONENTS["mair-awp-10"], SCENE, 2, 3, [])
    assert found.theirs == found.ours["fp32"] == [2.0, 2.0]
    assert len(steps) == (2 + 1) * 2 * 3  # rounds and one to warm up, both sides, batches


def test_unequal_sides_are_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    other = replace(OPPONENTS["mair-pgd-10"], script=MairAWP)
    monkeypatch.setitem(frameworks.OPPONENTS, "mair-pgd-10", other)
    monkeypatch.setattr(timing, "seconds", None)
    assert frameworks.main([*TINY, "--opponents", "mair-pgd-10"]) == 1
    assert "the two sides differ" in capsys.readouterr().err
