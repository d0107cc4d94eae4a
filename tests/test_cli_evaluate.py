"""sparring evaluate and sparring doctor: any network, records, examples, resumption, and what the doctor stops."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sparring import cli
from sparring.attacks import APGD, FAB, AutoAttack, Square
from sparring.data import Data, load
from sparring.models import create
from tests.evaluation.records import record_in

SOURCE = """
import torch
from torch import nn
from sparring.models import create

def seeded():
    torch.manual_seed(0)
    return create("smallconv", 10, channels=1, size=8, width=4)

def probabilities():
    return nn.Sequential(seeded(), nn.Softmax(1))

def nan():
    model = seeded()
    model.network.linear.bias.data[0] = float("nan")
    return model

def one_class():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

def raises():
    return nn.Linear(3, 10)

def noisy():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = seeded()
        def forward(self, x):
            return self.inner(x) + 0.5 * torch.randn(len(x), 10)
    return Noisy()
"""


def sparring(capsys, *arguments: object) -> tuple[int, str, str]:
    status = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of the user's own."""
    (tmp_path / "mine_for_cli.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run on digits."""
    folder = tmp_path_factory.mktemp("runs") / "pgd"
    quick = ["--optimisation.epochs", "3", "--data.limit", "400", "--model.width", "8", "--selection.images", "10"]
    assert cli.main(["train", "digits/pgd-at", "--run", str(folder), *quick]) == 0
    return folder


def short(attack: AutoAttack, classes: int, threat):
    """The stages of AutoAttack at a fraction of their steps."""
    return {
        "apgd-ce": APGD(steps=5),
        "apgd-t": APGD("dlr", targets=2, steps=5),
        "fab-t": FAB(targets=2, steps=4),
        "square": Square(queries=20),
    }


def test_autoattack_s_stages_are_printed_and_recorded(capsys, run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(AutoAttack, "searches", short)
    output, examples = tmp_path / "record.json", tmp_path / "examples.safetensors"
    status, out, _ = sparring(
        capsys,
        *("evaluate", run, "--attacks", "clean,aa", "--samples", 40, "--threat.eps", 0.05),
        *("--output", output, "--examples", examples),
    )
    assert status == 0
    assert all(name in out for name in ("apgd-ce", "apgd-t", "fab-t", "square", "worst of these"))
    record = json.loads(output.read_text())
    assert record["precision"] == "exact"
    assert record["subject"]["fingerprint"]
    found = record["attacks"][1]
    assert found["version"] == "standard"
    stages = {stage["attack"]: stage for stage in found["stages"]}
    assert list(stages) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert stages["square"]["queries"] == 20
    assert stages["square"]["backwards"] == 0
    accuracies = [stage["accuracy"] for stage in stages.values()]
    assert accuracies == sorted(accuracies, reverse=True)
    assert found["accuracy"] == accuracies[-1] == record["worst"]

    saved = load_file(examples)
    images = load(Data(test_limit=40)).test
    assert torch.equal(saved["labels"], images.labels)
    assert (saved["images.aa"] - images.pixels / 255).abs().max() <= 0.05 + 1e-6
    network = cli.api.load(run)
    assert torch.equal(network(saved["images.aa"]).argmax(1) == images.labels, saved["correct.aa"])
    assert not list(tmp_path.glob(".*partial"))


def test_a_network_of_the_user_s_own(capsys, here) -> None:
    status, _, _ = sparring(capsys, "evaluate", "mine_for_cli:seeded", "--attacks", "clean", "--no-doctor")
    assert status == 0
    record = record_in(here / "mine_for_cli-seeded.evaluations")
    assert record["subject"]["model"] == "SmallConv"
    assert record["subject"]["weights"] == "mine_for_cli:seeded"
    torch.manual_seed(0)
    assert record["n"] == 360


REFUSED = {
    "probabilities": (["mine_for_cli:probabilities"], "probabilities"),
    "NaN": (["mine_for_cli:nan"], "The model returned NaN logits for images of digits"),
    "one class": (["mine_for_cli:one_class"], "The model knows 1 class"),
    "a model that raises": (["mine_for_cli:raises"], "The model cannot take images of shape (1, 8, 8)"),
    "eps 0": (["mine_for_cli:seeded", "--threat.eps", "0"], "eps must be positive"),
    "no samples": (["mine_for_cli:seeded", "--samples", "0"], "0"),
    "precision": (["mine_for_cli:seeded", "--precision", "half"], "half"),
    "batch size": (["mine_for_cli:seeded", "--batch-size", "-1", "--no-doctor"], "batch size is -1"),
    "batch size 0": (["mine_for_cli:seeded", "--batch-size", "0", "--no-doctor"], "batch size is 0"),
    "a record in a file": (["mine_for_cli:seeded", "--output", "mine_for_cli.py/x.json"], "cannot be written"),
    "examples in a folder": (["mine_for_cli:seeded", "--examples", "."], "cannot be written"),
    "a function that is not there": (["mine_for_cli:absent"], "has no 'absent'"),
    "an attack": (["mine_for_cli:seeded", "--attacks", "aa-stanard"], "Unknown attack 'aa-stanard'"),
    "no device": (["mine_for_cli:seeded", "--device", "gpu"], "There is no device 'gpu'"),
    "a device that cannot compute": (
        ["mine_for_cli:seeded", "--device", "meta"],
        "cannot compute on the device meta here",
    ),
    "an empty path": (["mine_for_cli:seeded", "--output", ""], "Argument --output: a path cannot be empty"),
    "the last checkpoint of a function": (
        ["mine_for_cli:seeded", "--checkpoint", "last"],
        "leave it out for mine_for_cli",
    ),
    "the last checkpoint of timm's": (["timm:resnet18", "--checkpoint", "last"], "leave it out for timm:resnet18"),
    "no weights but a module": (["mine_for_cli.py"], "a function that returns sparring.models.adopt(FILE, "),
    "pretrained weights without a connection": (["timm:resnet81"], "resnet81"),
}


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_one_sentence_and_status_2_and_writes_nothing(capsys, here, arguments, sentence) -> None:
    status, out, err = sparring(capsys, "evaluate", *arguments)
    assert status == 2, out
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in here.iterdir() if path.name != "__pycache__"] == ["mine_for_cli.py"]


def test_weights_of_other_code_are_answered_with_how_to_adopt_them(capsys, here) -> None:
    """In the sentence's words: a function of the module in the working folder that calls adopt."""
    torch.save(create("smallconv", 10, channels=1, size=8, width=4).network.state_dict(), "net.pt")
    for command in ("evaluate", "doctor"):
        status, _, err = sparring(capsys, command, "net.pt")
        assert status == 2
        assert (
            "give package.module:function, a function that returns sparring.models.adopt(FILE, ModelDescription(" in err
        )
    status, _, err = sparring(capsys, "evaluate", "net.pt", "--checkpoint", "last")
    assert "--checkpoint last is for the folder of a run" in err
    (here / "adopting_here.py").write_text(
        "from sparring.models import ModelDescription, adopt\n"
        "def network():\n"
        "    return adopt('net.pt', ModelDescription('smallconv', classes=10, channels=1, size=8, width=4))\n"
    )
    assert sparring(capsys, "evaluate", "adopting_here:network", "--attacks", "clean", "--no-doctor")[0] == 0


def test_a_run_is_evaluated_without_the_class_of_its_method(capsys, run, tmp_path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("checkpoints"))  # which know the configuration
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace("sparring.methods.AdversarialTraining", "gone_for_good.Mine"))
    assert "gone_for_good" in (moved / "config.yaml").read_text()
    status, _, err = sparring(capsys, "evaluate", moved, "--attacks", "clean", "--samples", "20")
    assert status == 0, err
    record = record_in(moved / "evaluations")
    assert (record["n"], record["data"]["name"]) == (20, "digits")


@pytest.mark.parametrize(
    "content",
    [
        {"learner": {"average": None, "network": {"fc.weight": torch.ones(2)}}},
        {"learner": {"network": {}}},
        {"learner": [1, 2]},
        {"state_dict": {}},
    ],
)
def test_a_last_checkpoint_of_something_else_is_refused(capsys, run, tmp_path, content) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    torch.save(content, moved / "checkpoints" / "last.ckpt")
    status, _, err = sparring(capsys, "evaluate", moved, "--checkpoint", "last", "--attacks", "clean")
    assert status == 2
    assert "last.ckpt" in err
    assert len(err.splitlines()) == 1


def test_a_class_of_the_working_folder_is_trained_with(capsys, here, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(here))])
    (here / "method_for_cli.py").write_text("from sparring.methods import Standard as Mine\n")
    quick = ["--optimisation.epochs", "1", "--data.limit", "100", "--data.test_limit", "10", "--model.width", "4"]
    status, _, err = sparring(capsys, "train", "digits/standard", "--method", "method_for_cli.Mine", *quick)
    assert status == 0, err


def test_images_whose_classes_have_other_numbers_are_refused(capsys, tmp_path) -> None:
    for part, (split, names) in enumerate((("set/train", "abc"), ("set/test", "abc"), ("other/test", "bcd"))):
        for number, name in enumerate(names):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(12):
                pixels = np.full((8, 8), 20 * number + index, dtype=np.uint8)
                pixels[0, 0] = 100 + part
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    data = ["--data.name", "mine", "--data.path", tmp_path / "set"]
    quick = ["--optimisation.epochs", "1", "--model.width", "4", "--optimisation.batch_size", "11"]
    assert sparring(capsys, "train", "digits/fgsm-at", "--run", tmp_path / "run", *data, *quick)[0] == 0
    assert sparring(capsys, "evaluate", tmp_path / "run", "--attacks", "clean")[0] == 0
    status, _, err = sparring(
        capsys, "evaluate", tmp_path / "run", "--attacks", "clean", "--data.path", tmp_path / "other"
    )
    assert status == 2
    assert "The class 'b' is number 0 of the data, but number 1 of the model (2 such)." in err


def test_images_are_not_divided_otherwise_than_in_training(capsys, tmp_path) -> None:
    """Noise, which can be learnt by heart only: where training images were tested accuracy would be far above a half."""
    flat = tmp_path / "flat"
    noise = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        file = flat / "ab"[number % 2] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    data = ["--data.name", "mine", "--data.path", flat]
    quick = ["--optimisation.epochs", "1", "--model.width", "4", "--optimisation.batch_size", "11"]
    run = tmp_path / "run"
    assert sparring(capsys, "train", "digits/fgsm-at", "--run", run, *data, *quick)[0] == 0
    assert sparring(capsys, "evaluate", run, "--attacks", "clean", "--samples", 12)[0] == 0
    refusal = r"\d+ of the 1\d images are among those that the model was trained on, pixel for pixel"
    status, _, err = sparring(capsys, "evaluate", run, "--attacks", "clean", "--data.seed", 1)
    assert (status, bool(re.search(refusal, err))) == (2, True)
    (flat / "a/000.png").unlink()
    status, _, err = sparring(capsys, "evaluate", run, "--attacks", "clean")
    assert (status, "The training images of mine are not those that" in err) == (2, True)
    again = ["--data.name", "mine", "--data.path", flat]
    status, _, err = sparring(capsys, "evaluate", run, "--attacks", "clean", *again)
    assert (status, bool(re.search(refusal, err))) == (2, True)
    status, out, _ = sparring(capsys, "doctor", run, "--quick", *again)
    assert (status, "error: seen-images" in out) == (3, True)
    assert sparring(capsys, "evaluate", run, "--attacks", "clean", "--no-doctor", *again)[0] == 0
    assert "is not finished" not in out


def test_a_run_that_was_stopped_is_said_to_be_unfinished_and_another_run_s_checkpoint_is_none_of_its(
    capsys, run, tmp_path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    rows = (copy / "metrics.csv").read_text().splitlines()
    (copy / "metrics.csv").write_text("\n".join(rows[:2]) + "\n")
    status, out, _ = sparring(capsys, "evaluate", copy, "--attacks", "clean", "--samples", 20)
    assert (status, "copy is not finished, 1 of 3 epochs: its figures are of now." in out) == (0, True)
    assert "not finished" not in sparring(capsys, "evaluate", run, "--attacks", "clean", "--samples", 20)[1]
    other = tmp_path / "other"
    words = ["--optimisation.epochs", 3, "--data.limit", 400, "--model.width", 8, "--selection.images", 10, "--seed", 1]
    assert sparring(capsys, "train", "digits/pgd-at", "--run", other, *words)[0] == 0
    shutil.copy(other / "checkpoints/last.ckpt", copy / "checkpoints/last.ckpt")
    for words in (["evaluate", copy, "--checkpoint", "last"], ["evaluate", copy], ["figure", "robust-accuracy", copy]):
        status, _, err = sparring(capsys, *words)
        assert (status, "was written by a run with another configuration" in err) == (2, True)


def test_a_run_without_its_configuration_is_evaluated_only_on_what_is_said(capsys, run, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "config.yaml").unlink()
    for said in ([], ["--data.name", "digits"], ["--data.name", "digits", "--threat.eps", "0.1"]):
        status, _, err = sparring(capsys, "evaluate", copy, "--attacks", "clean", *said)
        assert (status, "copy/config.yaml is missing, which said what" in err) == (2, True)
    words = ["--data.name=digits", "--threat.eps=0.1", "--threat.norm=Linf"]
    assert sparring(capsys, "evaluate", copy, "--attacks=clean", *words)[0] == 0


def test_the_doctor_s_errors_can_be_ignored(capsys, here) -> None:
    status, _, _ = sparring(capsys, "evaluate", "mine_for_cli:probabilities", "--attacks", "clean", "--no-doctor")
    assert status == 0


def test_the_doctor_s_exit_status_says_how_bad_it_is(capsys, here, run) -> None:
    status, out, _ = sparring(capsys, "doctor", "mine_for_cli:probabilities")
    assert (status, "error: probabilities" in out) == (3, True)
    status, out, _ = sparring(capsys, "doctor", run, "--quick")
    assert (status, out.strip()) == (0, "Nothing was found that would spoil an evaluation.")
    status, out, _ = sparring(capsys, "doctor", "mine_for_cli:nan")
    assert status == 3
    assert "NaN" in out


def test_the_doctor_s_findings_are_printed_and_recorded(capsys, here) -> None:
    status, out, _ = sparring(capsys, "evaluate", "mine_for_cli:noisy", "--attacks", "clean", "--no-doctor")
    assert status == 0
    assert "random" not in out
    status, out, _ = sparring(capsys, "evaluate", "mine_for_cli:noisy", "--attacks", "clean")
    assert status == 0
    assert "warning: random" in out
    record = record_in(here / "mine_for_cli-noisy.evaluations")
    assert "random" in [finding["check"] for finding in record["findings"]]


def test_an_evaluation_that_was_killed_goes_on(run, tmp_path) -> None:
    """With AutoAttack in full, killed in the middle; the second process says that it goes on."""
    output = tmp_path / "record.json"
    command = [
        sys.executable,
        "-c",
        "import sparring.evaluation.progress as p; p.Checkpoint.__init__.__defaults__ = (0.0,)\n"
        "import sys; from sparring.cli import main; sys.exit(main())",
    ]
    command += ["evaluate", str(run), "--attacks", "clean,aa-fast", "--samples", "30", "--output", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    assert list(tmp_path.glob(".*.partial"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "Going on with the evaluation that was stopped." in done.stdout
    assert json.loads(output.read_text())["attacks"][1]["n"] == 30
    assert not list(tmp_path.glob(".*.partial"))


def test_under_torchrun_two_processes_find_what_one_finds_and_one_of_them_writes(run, tmp_path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    records = {}
    for count in (1, 2):
        output, examples = tmp_path / f"{count}.json", tmp_path / f"{count}.safetensors"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)),
                *("-m", "sparring", "evaluate", str(run), "--attacks", "clean,pgd-5,apgd-ce", "--samples", "41"),
                *("--output", str(output), "--examples", str(examples)),
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.count("Record: ") == 1
        records[count] = json.loads(output.read_text())
        assert records[count]["processes"] == count

    def found(record: dict) -> list[dict]:
        """All but the time."""
        for attack in record["attacks"]:
            for part in (attack, *attack.get("stages", ())):
                del part["seconds"]
        return record["attacks"]

    assert found(records[1]) == found(records[2])
    one, two = (load_file(tmp_path / f"{count}.safetensors") for count in (1, 2))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=1e-6)
