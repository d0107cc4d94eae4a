"""The loop: killed and resumed runs, interruptions, the best epoch, and the files that a run leaves."""

from __future__ import annotations

import csv
import json
import signal
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import sparring
from sparring import configuration
from sparring.attacks import PGD
from sparring.data import Augment, Data, load
from sparring.errors import BadInput
from sparring.experiment import Experiment, Model, train
from sparring.methods import AWP, MEP, TRADES, AdversarialTraining, Method, Standard
from sparring.methods.base import state
from sparring.optimisation import Optimisation
from sparring.schedule import Constant
from sparring.threat import Threat
from sparring.training import Diagnostics, Diverged, Interrupted, Run, Runtime, Selection, checkpoint, session, trainer
from sparring.training.progress import Silent
from tests.syncs import NoHostSync
from tests.training.runs import Interrupts, experiment, final_state, killed_at, same

METHODS = {"MEP": MEP(), "AWP(TRADES)": AWP(TRADES(attack=PGD(steps=2, start="normal")), gamma=0.005)}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_killed_in_the_middle_of_an_epoch_resumes_to_the_same_weights_bit_for_bit(name, tmp_path) -> None:
    """Three epochs of four steps; kill -9 at step 6, which is in the second epoch, and at step 2, before any checkpoint."""
    chosen = experiment(METHODS[name])
    config = tmp_path / "experiment.yaml"
    config.write_text(configuration.to_yaml(chosen))
    train(chosen, tmp_path / "whole", report=Silent())
    for step in (2, 6):
        folder = tmp_path / f"killed-{step}"
        killed_at(step, config, folder)
        assert Run(folder).last.exists() == (step > 4)
        train(configuration.read(Experiment, config), folder, resume=True, report=Silent())
        assert same(final_state(folder), final_state(tmp_path / "whole"))
        assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_a_run_s_attacks_and_evaluations_go_through_no_batchnorm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRADES's loss does: four steps, two forward passes, four layers; and two trials of what can be folded."""
    passed, original = [], F.batch_norm
    monkeypatch.setattr(F, "batch_norm", lambda *some, **more: passed.append(1) or original(*some, **more))
    chosen = experiment(TRADES(attack=PGD(steps=2, start="normal")), epochs=1, runtime=Runtime(level="eager"))
    train(chosen, tmp_path, report=Silent())
    assert len(passed) == 4 * 2 * 4 + 2 * 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_at_the_next_batch_and_the_run_goes_on_from_there(number, tmp_path) -> None:
    before = signal.getsignal(number)
    train(experiment(MEP()), tmp_path / "whole", report=Silent())
    with pytest.raises(Interrupted, match="epoch 1 after 2 batches.*--resume"):
        train(experiment(MEP()), tmp_path / "run", report=Interrupts(6, number))
    assert checkpoint.load(Run(tmp_path / "run").last)["batch"] == 2
    train(experiment(MEP()), tmp_path / "run", resume=True, report=Silent())
    assert same(final_state(tmp_path / "run"), final_state(tmp_path / "whole"))
    assert signal.getsignal(number) == before


def test_an_interruption_at_the_end_of_an_epoch_finishes_the_epoch_first(tmp_path) -> None:
    with pytest.raises(Interrupted, match="epoch 1 after 0 batches"):
        train(experiment(MEP()), tmp_path, report=Interrupts(4))
    assert len(Run(tmp_path).metrics()) == 1


def test_a_run_leaves_what_the_guide_lists(tmp_path) -> None:
    run = train(experiment(MEP(), epochs=2), tmp_path / "run", report=Silent())
    assert configuration.read(Experiment, run.config) == experiment(MEP(), epochs=2)
    assert json.loads((run.folder / "environment.json").read_text())["torch"] == torch.__version__
    with (run.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0.0", "1.0"]
    assert all(0 <= float(row[key]) <= 1 for row in rows for key in ("clean", "robust", "train_accuracy"))
    assert [path.name.split(".")[0] for path in (run.folder / "tensorboard").iterdir()] == ["events"]
    assert run.last.exists()
    assert run.best.exists()
    assert not list(run.folder.rglob(".*")), "temporary files are left"


def test_the_exported_network_is_that_of_the_best_epoch(tmp_path) -> None:
    run = train(experiment(MEP(), epochs=4), tmp_path, report=Silent())
    rows = run.metrics()
    best = checkpoint.load(run.best)
    last_of_the_best = max(range(4), key=lambda epoch: (rows[epoch]["robust"], epoch))
    assert best["epoch"] == last_of_the_best + 1
    assert same(best["learner"]["average"], _trained(sparring.load(tmp_path)))
    assert same(checkpoint.load(run.last)["learner"]["average"], _trained(sparring.load(tmp_path, "last")))


def _trained(network) -> dict:
    """Its tensors but for BatchNorm's counters, which training goes without."""
    return {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def test_standard_training_may_be_selected_by_clean_accuracy(tmp_path) -> None:
    chosen = experiment(Standard(), epochs=4, selection=Selection(attack="pgd-2", by="clean"))
    run = train(chosen, tmp_path, report=Silent())
    rows = run.metrics()
    assert checkpoint.load(run.best)["epoch"] == max(range(4), key=lambda epoch: (rows[epoch]["clean"], epoch)) + 1


def test_a_run_is_not_overwritten_and_not_resumed_as_another(tmp_path) -> None:
    train(experiment(MEP(), epochs=1), tmp_path, report=Silent())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="already holds a run: add --resume"):
        train(experiment(MEP(), epochs=1), tmp_path, report=Silent())
    with pytest.raises(BadInput, match=r"another configuration \(class_path: sparring.methods.MEP, not .*Standard"):
        train(experiment(Standard(), epochs=1), tmp_path, resume=True, report=Silent())
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["config.yaml", "model.yaml", "model.safetensors", "metrics.csv", "data.json", "checkpoints/last.ckpt"]
)
@pytest.mark.parametrize("resume", [False, True])
def test_files_of_no_run_are_not_overwritten(name: str, resume: bool, tmp_path) -> None:
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("lr: 0.1\n")
    with pytest.raises(BadInput, match=rf"{name} is of no run of Sparring's and would be overwritten: choose another"):
        train(experiment(MEP(), epochs=1), tmp_path / "run", resume=resume, report=Silent())
    assert file.read_text() == "lr: 0.1\n"
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [file]


def test_a_folder_with_other_files_takes_a_run(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    train(experiment(Standard(), epochs=1), tmp_path, report=Silent())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused_before_the_images_are_loaded(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(Experiment, "trainer", lambda *_: pytest.fail("began"))
    with pytest.raises(BadInput, match="cannot be written: choose a folder"):
        train(experiment(Standard(), epochs=1), tmp_path / "file" / "run", report=Silent())


def without_configuration(last: Path) -> None:
    """What version 0.1 wrote."""
    state = checkpoint.load(last)
    del state["configuration"]
    checkpoint.save(state, last)


def test_the_checkpoint_of_another_method_is_refused(tmp_path) -> None:
    train(experiment(MEP(), epochs=1), tmp_path / "mep", report=Silent())
    run = train(experiment(Standard(), epochs=1), tmp_path / "standard", report=Silent())
    run.last.write_bytes(Run(tmp_path / "mep").last.read_bytes())
    with pytest.raises(
        BadInput, match=r"last.ckpt was written by a run with another .*methods.MEP, not .*methods.Standard"
    ):
        train(experiment(Standard(), epochs=1), tmp_path / "standard", resume=True, report=Silent())
    without_configuration(run.last)
    with pytest.raises(BadInput, match="written by the method MEP, not Standard"):
        train(experiment(Standard(), epochs=1), tmp_path / "standard", resume=True, report=Silent())


@pytest.mark.parametrize("old", [False, True], ids=["present", "0.1"])
def test_a_run_is_not_resumed_with_another_configuration_than_its_checkpoint_has(old, tmp_path) -> None:
    """Whoever edits config.yaml and resumes would have a run that is half of each; the seed tells two runs apart, too."""
    run = train(experiment(Standard(), epochs=2), tmp_path, report=Silent())
    if old:
        without_configuration(run.last)
    longer = experiment(Standard(), epochs=3)
    run.config.write_text(run.config.read_text().replace("epochs: 2", "epochs: 3"))
    before = run.last.read_bytes()
    if old:
        train(longer, tmp_path, resume=True, report=Silent())
        assert checkpoint.load(run.last)["configuration"] == run.config.read_text()
        return
    with pytest.raises(
        BadInput, match=r"last.ckpt was written by .*\(epochs: 2, not epochs: 3\): undo what was changed"
    ):
        train(longer, tmp_path, resume=True, report=Silent())
    assert run.last.read_bytes() == before


def test_a_radius_in_the_unit_of_another_norm_is_said_as_training_begins(tmp_path) -> None:
    class Notes(Silent):
        def __init__(self) -> None:
            self.said: list[str] = []

        def note(self, text: str) -> None:
            self.said.append(text)

    for threat, found in ((Threat("L2", "8/255"), True), (Threat("L1", "8/255"), True), (Threat(eps=0.2), False)):
        notes = Notes()
        train(experiment(Standard(), epochs=1, threat=threat), tmp_path / threat.norm, report=notes)
        assert any(text.startswith(f"The radius is {threat.norm} 8/255, on average") for text in notes.said) is found


def test_answers_that_are_no_numbers_after_the_last_step_name_the_rate(tmp_path) -> None:
    """All losses were finite: the last update made the weights too large."""
    once = experiment(AdversarialTraining(), epochs=1, data=Data(limit=100, validation=44))
    once = replace(once, optimisation=replace(once.optimisation, lr=1e20, schedule=Constant()))
    with pytest.raises(Diverged, match=r"network's answers became NaN in epoch 0: lower optimisation.lr \(1e\+20\)"):
        train(once, tmp_path, report=Silent())


def test_settings_that_cannot_be_meant_are_refused_before_the_first_step(tmp_path) -> None:
    for changes, said in (
        ({"threat": Threat("L2", 8)}, "Within threat.eps 8 in L2 images of 1 x 8 x 8 pixels can all become plain grey"),
        ({"data": Data(augment=Augment(pad=100))}, "augment.pad is 100, so that a crop of 8 x 8 pixels"),
        ({"method": MEP(alpha=8)}, "alpha is 8, more than twice the radius, 0.2.* Did you mean 8/255"),
        ({"method": AdversarialTraining(attack=PGD(steps=2, alpha=8))}, "alpha is 8, more than twice the radius, 0.2"),
    ):
        with pytest.raises(BadInput, match=said):
            train(experiment(**({"method": Standard()} | changes), epochs=1), tmp_path / "run", report=Silent())
        assert not (tmp_path / "run/metrics.csv").exists()


def test_a_run_is_not_resumed_on_other_images(tmp_path) -> None:
    """One pixel of one image is another, in a folder of the same name."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 8, 8), generator=generator, dtype=torch.uint8).numpy()
    for number, image in enumerate(pixels):
        file = tmp_path / "images" / f"class-{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    chosen = experiment(MEP(), epochs=1, data=Data("pictures", str(tmp_path / "images"), augment=Augment(pad=1)))
    run = train(chosen, tmp_path / "run", report=Silent())
    names = ("checkpoints/last.ckpt", "data.json", "environment.json", "training_images.safetensors", "config.yaml")
    before = [(run.folder / name).read_bytes() for name in names]

    changed = pixels[7].copy()
    changed[3, 3] ^= 1
    Image.fromarray(changed).save(tmp_path / "images" / "class-1" / "7.png")
    sentence = r"The images of pictures changed .*\(fingerprint [0-9a-f]{16} then, [0-9a-f]{16} now\): restore them"
    with pytest.raises(BadInput, match=sentence):
        train(chosen, tmp_path / "run", resume=True, report=Silent())
    assert [(run.folder / name).read_bytes() for name in names] == before

    Image.fromarray(pixels[7]).save(tmp_path / "images" / "class-1" / "7.png")
    train(chosen, tmp_path / "run", resume=True, report=Silent())
    assert [(run.folder / name).read_bytes() for name in names[:-1]] == before[:-1]

    (tmp_path / "images").rename(tmp_path / "moved")  # where they lie does not matter
    elsewhere = replace(chosen, data=replace(chosen.data, path=str(tmp_path / "moved")))
    train(elsewhere, tmp_path / "run", resume=True, report=Silent())
    assert str(tmp_path / "moved") in run.config.read_text()
    sparring.evaluate(sparring.load(run.folder), elsewhere.data, chosen.threat, "clean", doctor=False)


def test_what_was_trained_on_is_known_of_the_network_however_it_is_wrapped(tmp_path) -> None:
    chosen = experiment(Standard(), epochs=1)
    run = train(chosen, tmp_path, report=Silent())
    network, splits = sparring.load(run.folder), load(chosen.data)
    assert torch.equal(network.seen, splits.seen())
    other = load(replace(chosen.data, seed=1))
    for wrapped in (network, torch.nn.Sequential(network), torch.nn.DataParallel(network)):
        for images in (other, other.test):
            with pytest.raises(BadInput, match=r"of the 360 images are among those that the model was trained on"):
                sparring.evaluate(wrapped, images, chosen.threat, "clean")
    assert sparring.evaluate(network, splits, chosen.threat, "clean").record["data"]["train_fingerprint"]
    larger = sparring.data.Images(
        splits.test.pixels.repeat_interleave(2, 2).repeat_interleave(2, 3), splits.test.labels
    )
    findings = {
        finding.check: finding for finding in sparring.evaluate(network, larger, chosen.threat, "clean").findings
    }
    assert findings["image-size"].seen == ("The images have 16 x 16 pixels, those that the model was trained on 8 x 8.")
    (tmp_path / "training_images.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"training_images\.safetensors is damaged"):
        sparring.load(run.folder)
    (tmp_path / "training_images.safetensors").unlink()
    assert sparring.load(run.folder).seen is None


def test_a_corrupt_checkpoint_is_refused(tmp_path) -> None:
    run = train(experiment(Standard(), epochs=1), tmp_path, report=Silent())
    run.last.write_bytes(run.last.read_bytes()[:1000])
    with pytest.raises(BadInput, match="last.ckpt is damaged, or no checkpoint"):
        train(experiment(Standard(), epochs=1), tmp_path, resume=True, report=Silent())


@pytest.mark.parametrize(("images", "drop_last", "fine"), [(271, False, False), (271, True, True), (272, False, True)])
def test_a_last_batch_of_one_image_is_foreseen(images: int, drop_last: bool, fine: bool, tmp_path) -> None:
    """ResNet-18's last map of an 8x8 image is a single pixel; 90 batches of 3 and one more image, of those not held out."""
    of = {"data": Data(limit=images, validation=0), "selection": Selection(split="test", images=10)}
    options = Optimisation(epochs=1, batch_size=3, drop_last=drop_last)
    chosen = replace(experiment(Standard(), **of), optimisation=options, model=Model("resnet18", width=4))
    if fine:
        chosen.trainer(Run(tmp_path), Silent())
        return
    with pytest.raises(BadInput, match=r"last batch of an epoch has one image.*set optimisation.drop_last to true"):
        train(chosen, tmp_path, report=Silent())
    assert not Run(tmp_path).config.exists()


@dataclass
class Unreadable(Standard):
    """Keeps a number of NumPy's, which would be read back by running code."""

    level: float = state()

    def setup(self, task) -> None:
        self.level = np.float64(0.5)


def test_what_a_checkpoint_cannot_hold_is_refused_before_it_is_written(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"cannot hold method.level, a numpy.float64: keep a tensor or a plain number"):
        train(experiment(Unreadable()), tmp_path, report=Silent())
    assert not Run(tmp_path).last.exists()


@dataclass
class Asking(Standard):
    def begin_epoch(self, epoch, review=None) -> None:
        if review:
            review.accuracy([])


def test_a_method_that_asks_for_held_out_images_is_told_that_there_are_none(tmp_path) -> None:
    without = {"data": Data(limit=300, validation=0), "selection": Selection(split="test", images=10)}
    with pytest.raises(
        BadInput, match=r"^Asking asks how accurate it is on held-out images: set data.validation above 0.$"
    ):
        train(experiment(Asking(), **without), tmp_path, report=Silent())


@pytest.mark.parametrize("key", ["diagnostics", "fingerprint", "learner"])
def test_a_checkpoint_without_a_part_is_refused(key: str, tmp_path) -> None:
    train(experiment(Standard(), epochs=1), tmp_path, report=Silent())
    state = checkpoint.load(Run(tmp_path).last)
    del state[key]
    checkpoint.save(state, Run(tmp_path).last)
    with pytest.raises(BadInput, match=f"last.ckpt lacks '{key}': it is no checkpoint of this version"):
        train(experiment(Standard(), epochs=1), tmp_path, resume=True, report=Silent())
    if key == "learner":
        with pytest.raises(BadInput, match="lacks 'learner'"):
            sparring.load(tmp_path, "last")


def test_a_checkpoint_of_which_a_bit_was_flipped_is_refused(tmp_path) -> None:
    """Most bits are of tensors, which torch.load takes as they are."""
    train(experiment(Standard(), epochs=1), tmp_path, report=Silent())
    last = Run(tmp_path).last
    content = bytearray(last.read_bytes())
    with zipfile.ZipFile(last) as records:
        tensors = [record for record in records.infolist() if "/data/" in record.filename]
        largest = max(tensors, key=lambda record: record.file_size)
        content[content.index(records.read(largest)) + largest.file_size // 2] ^= 1
    last.write_bytes(content)
    torch.load(last, weights_only=True)
    with pytest.raises(BadInput, match=r"last.ckpt is damaged, or no checkpoint: restore it, or start a new run"):
        train(experiment(Standard(), epochs=1), tmp_path, resume=True, report=Silent())
    with pytest.raises(BadInput, match="last.ckpt is damaged"):
        sparring.load(tmp_path, "last")


def test_a_checkpoint_without_checksums_is_read_with_a_note(tmp_path, caplog) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        checkpoint.save({"a": torch.ones(3)}, tmp_path / "last.ckpt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(checkpoint.load(tmp_path / "last.ckpt")["a"], torch.ones(3))
    assert "last.ckpt was written without checksums" in caplog.text
    caplog.clear()
    checkpoint.save({"a": torch.ones(3)}, tmp_path / "last.ckpt")
    checkpoint.load(tmp_path / "last.ckpt")
    assert not caplog.text


def test_a_checkpoint_never_runs_code(tmp_path) -> None:
    """A pickle that would execute something on loading is refused as unreadable."""

    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"learner": Trap()}, tmp_path / "last.ckpt")
    with pytest.raises(BadInput, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "last.ckpt")
    assert not (tmp_path / "sprung").exists()


def test_a_full_disk_ends_the_run_with_a_sentence_and_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch) -> None:
    train(experiment(MEP(), epochs=1), tmp_path, report=Silent())
    before = Run(tmp_path).last.read_bytes()

    def full(state: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(BadInput, match="The disk is full"):
        checkpoint.save({}, Run(tmp_path).last)
    assert Run(tmp_path).last.read_bytes() == before
    assert not list(Run(tmp_path).last.parent.glob(".*"))


def test_checkpoints_can_be_rarer_than_epochs_and_resume_exactly(tmp_path) -> None:
    chosen = experiment(MEP(), epochs=5, runtime=Runtime(checkpoint_every=3))
    train(chosen, tmp_path / "whole", report=Silent())
    config = tmp_path / "experiment.yaml"
    config.write_text(configuration.to_yaml(chosen))
    killed_at(19, config, tmp_path / "killed")  # in the fifth epoch
    train(chosen, tmp_path / "killed", resume=True, report=Silent())
    assert same(final_state(tmp_path / "killed"), final_state(tmp_path / "whole"))


def test_a_loss_that_is_not_finite_ends_the_run_with_advice_and_keeps_the_last_good_epoch(
    tmp_path, monkeypatch
) -> None:
    trained = session.train_step

    def diverges(method, target, batch, phase):
        step = trained(method, target, batch, phase)
        lost = replace(step, loss=replace(step.loss, total=step.loss.total * float("nan")))
        return lost if target.steps > 6 else step

    monkeypatch.setattr(session, "train_step", diverges)
    with pytest.raises(BadInput, match="loss became nan in epoch 1: lower optimisation.lr"):
        train(experiment(Standard()), tmp_path, report=Silent())
    assert checkpoint.load(Run(tmp_path).last)["epoch"] == 1


def test_checkpoints_are_as_rare_as_they_were_asked_to_be(tmp_path, monkeypatch) -> None:
    """Also where every epoch is a new best: the network is saved then, the whole state is not."""
    saved, exported = [], []
    save, export = Run.save, Run.export
    monkeypatch.setattr(Run, "save", lambda self, state: saved.append(state["epoch"]) or save(self, state))
    monkeypatch.setattr(Run, "export", lambda self, *parts: exported.append(1) or export(self, *parts))
    rising = iter(range(1, 9))
    evaluated = trainer.Trainer._evaluate
    monkeypatch.setattr(trainer.Trainer, "_evaluate", lambda self: evaluated(self) | {"robust": next(rising) / 10})
    run = train(experiment(Standard(), epochs=8, runtime=Runtime(checkpoint_every=3)), tmp_path, report=Silent())
    assert saved == [3, 6, 8]
    assert len(exported) == 8
    assert checkpoint.load(run.best)["epoch"] == 8


@pytest.mark.parametrize("file", ["best.ckpt", "model.safetensors", "metrics.csv"])
def test_a_run_killed_while_it_writes_an_epochs_files_ends_with_the_same_files(file, tmp_path, monkeypatch) -> None:
    """Killed just before a file is put in place, in the first epoch after a checkpoint that writes it."""
    chosen = experiment(MEP(), epochs=4, selection=Selection(attack="pgd-2", by="clean"))
    train(chosen, tmp_path / "whole", report=Silent())
    replaced = Path.replace

    def dies(self, target):
        if Path(target).name == file and Run(tmp_path / "run").last.exists():
            raise _Killed
        return replaced(self, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(Path, "replace", dies)
        train(chosen, tmp_path / "run", report=Silent())
    train(chosen, tmp_path / "run", resume=True, report=Silent())
    assert same(final_state(tmp_path / "run"), final_state(tmp_path / "whole"))
    assert (
        checkpoint.load(Run(tmp_path / "run").best)["epoch"] == checkpoint.load(Run(tmp_path / "whole").best)["epoch"]
    )
    for name in ("model.safetensors", "model.yaml"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(Run(tmp_path / "run").metrics()) == 4


class _Killed(BaseException):
    pass


def test_selection_needs_images_and_an_attack_that_exists() -> None:
    with pytest.raises(BadInput, match="did you mean 'pgd-10'"):
        Selection(attack="pdg-10")
    with pytest.raises(BadInput, match=r"set data.validation above 0"):
        experiment(Standard(), data=Data(limit=300, validation=0)).trainer(Run(Path("unused")), Silent())


def test_seeds_differ_and_repeat(tmp_path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(experiment(MEP(), epochs=1, seed=seed), tmp_path / name, report=Silent())
    assert same(final_state(tmp_path / "a"), final_state(tmp_path / "b"))
    assert not same(final_state(tmp_path / "a")["learner"], final_state(tmp_path / "c")["learner"])


@pytest.mark.parametrize(
    ("ties", "values", "best"), [("later", [1, 2, 2, 1], [0, 1, 2]), ("earlier", [1, 2, 2, 1], [0, 1])]
)
def test_of_equal_epochs_the_later_is_the_best_or_the_earlier(ties, values: list[float], best: list[int]) -> None:
    selection = Selection(ties=ties)
    assert [epoch for epoch in range(4) if selection.is_best(values[: epoch + 1])] == best


def test_bf16_and_channels_last_train_too(tmp_path) -> None:
    runtime = Runtime(precision="bf16-mixed", channels_last=False)
    rows = train(experiment(MEP(), epochs=4, runtime=runtime), tmp_path, report=Silent()).metrics()
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert all(tensor.dtype != torch.bfloat16 for tensor in sparring.load(tmp_path).state_dict().values())


# The device is not waited for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [MEP(), MEP(memory="int8", smoothing=0.3), AWP(TRADES(attack=PGD(steps=2)))])
def test_an_epoch_s_steps_read_nothing_on_the_host(method: Method, tmp_path, monkeypatch) -> None:
    """Batches, steps, sums, averages and the notes of a run: what they add up to is fetched when the epoch has ended."""
    epochs = trainer.Trainer._train_epoch

    def refused(self, *_):
        raise AssertionError("a tensor was read on the host")

    def guarded(self) -> None:
        with NoHostSync(), monkeypatch.context() as patch:
            for name in ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__"):
                patch.setattr(torch.Tensor, name, refused)
            epochs(self)

    monkeypatch.setattr(trainer.Trainer, "_train_epoch", guarded)
    chosen = experiment(method, epochs=2, runtime=Runtime(compact=False), diagnostics=Diagnostics(every=2))
    train(chosen, tmp_path, report=Silent())
