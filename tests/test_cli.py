"""The command line, end to end: what it writes, what it says, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import Image

import sparring as sparring_package
from sparring import cli, recipe, recipes
from sparring.configuration import to_yaml
from tests.evaluation.records import record_in

QUICK = ["--optimisation.epochs", "1", "--data.limit", "200", "--model.width", "4", "--selection.images", "10"]


def sparring(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    status = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run on digits."""
    folder = tmp_path_factory.mktemp("runs") / "mep"
    assert cli.main(["train", "digits/fgsm-mep", "--run", str(folder), *QUICK]) == 0
    return folder


def test_train_evaluate_and_resume(capsys, run) -> None:
    attacks = "clean,fgsm,pgd-2,pgd-2-2,cw-2"
    status, out, _ = sparring(capsys, "evaluate", run, "--attacks", attacks, "--samples", 50)
    assert status == 0
    assert all(name in out for name in attacks.split(","))
    record = record_in(run / "evaluations")
    assert [attack["attack"] for attack in record["attacks"]] == attacks.split(",")
    assert record["threat"] == {"norm": "Linf", "eps": "0.2"}
    assert record["n"] == 50
    restarted = record["attacks"][3]
    assert (restarted["steps"], restarted["restarts"], restarted["start"]) == (2, 2, "uniform")
    assert restarted["alpha"] == "1/20"
    assert record["worst"] <= min(attack["accuracy"] for attack in record["attacks"])
    assert re.fullmatch(r"[0-9a-f]{16}", record["data"]["fingerprint"])

    status, out, _ = sparring(capsys, "train", run / "config.yaml", "--run", run, "--resume")
    assert status == 0
    assert f"sparring evaluate {run}" in out


def test_real_photographs_from_parquet_files(capsys, cifar10, tmp_path) -> None:
    """CIFAR-10 by its recipe, a narrow ResNet-18 on 200 images, measured on 20."""
    data = ("--data.path", cifar10, "--data.test_limit", 20)
    quick = ("--data.limit", 200, "--model.width", 8, "--optimisation.epochs", 1, "--selection.images", 10)
    status, _, _ = sparring(capsys, "train", "cifar10/fgsm-mep", "--run", tmp_path / "run", *data, *quick)
    assert status == 0
    status, out, _ = sparring(capsys, "evaluate", tmp_path / "run", "--attacks", "clean,pgd-2")
    assert status == 0
    assert "cifar10: 20 test images, Linf eps 8/255" in out
    record = record_in(tmp_path / "run" / "evaluations")
    assert [attack.get("alpha") for attack in record["attacks"]] == [None, "2/255"]


def test_a_file_of_weights_is_evaluated_with_the_data_and_threat_that_are_named(capsys, run, tmp_path) -> None:
    record = tmp_path / "record.json"
    status, _, err = sparring(
        capsys,
        *("evaluate", run / "model.safetensors", "--attacks", "fgsm", "--samples", 20),
        *("--data.name", "digits", "--threat.eps", "0.05", "--output", record),
    )
    assert (status, err) == (0, "")
    assert json.loads(record.read_text())["threat"]["eps"] == "0.05"
    assert json.loads(record.read_text())["attacks"][0]["alpha"] == "0.05"


def test_the_last_checkpoint_can_be_evaluated(capsys, run) -> None:
    status, _, _ = sparring(capsys, "evaluate", run, "--attacks", "clean", "--checkpoint", "last", "--samples", 20)
    assert status == 0
    assert record_in(run / "evaluations")["subject"]["checkpoint"] == "last"


def test_recipes_can_be_listed_shown_and_copied(capsys, tmp_path) -> None:
    _, out, _ = sparring(capsys, "recipes", "list", "digits")
    assert "digits/fgsm-mep" in out
    assert "cifar10" not in out
    _, out, _ = sparring(capsys, "recipes", "list", "cifar10")
    assert "cifar10/trades" in out
    assert "cifar100" not in out
    _, out, _ = sparring(capsys, "recipes", "list", "las-at")
    assert "cifar100/las-at" in out
    status, _, err = sparring(capsys, "recipes", "list", "tradez")
    assert (status, "Unknown recipe 'tradez'" in err) == (2, True)
    _, shown, _ = sparring(capsys, "recipes", "show", "cifar10/fgsm-rs")
    whole = recipes.text("cifar10/fgsm-rs", to_yaml(recipe("cifar10/fgsm-rs")))
    assert shown.startswith(whole)
    assert all(line.startswith("#") for line in shown.removeprefix(whole).splitlines())  # published figures
    assert "alpha: 5 eps/4 " in shown
    assert "weight_decay: 0.0005 " in shown
    target = tmp_path / "mine.yaml"
    sparring(capsys, "recipes", "copy", "digits/standard", target)
    assert target.read_text() == recipes.text("digits/standard", to_yaml(recipe("digits/standard")))
    assert cli.main(["train", str(target), "--run", str(tmp_path / "run"), *QUICK]) == 0
    status, _, err = sparring(capsys, "recipes", "copy", "digits/standard", target)
    assert status == 2
    assert "exists already" in err


BAD_INPUT = {
    "no command": ([], "required: command"),
    "command": (["trian"], "did you mean 'train'?"),
    "recipe": (["train", "cifar10/fgsm-mpe"], "did you mean 'cifar10/fgsm-mep'?"),
    "missing file": (["train", "missing.yaml"], "There is no file missing.yaml"),
    "option": (["train", "digits/standard", "--optimisation.epoch", "3"], "did you mean '--optimisation.epochs'?"),
    "method": (["train", "digits/standard", "--method", "TRADSE"], "did you mean 'TRADES'?"),
    "key of a method": (["train", "digits/trades", "--method.beat", "4"], "did you mean '--method.beta'?"),
    "eps": (["train", "digits/standard", "--threat.eps", "8"], "did you mean 8/255?"),
    "negative beta": (["train", "digits/trades", "--method.beta", "-1"], "needs beta >= 0, not -1"),
    "zero start": (["train", "digits/trades", "--method.attack.start", "zero"], "KL has no gradient"),
    "no replays": (["train", "digits/free-at", "--method.m", "0"], "needs m >= 1 replays of each batch, not 0"),
    "negative beta of MART": (["train", "digits/mart", "--method.beta", "-0.5"], "MART needs beta >= 0, not -0.5"),
    "negative beta of LBGAT": (["train", "digits/lbgat", "--method.beta", "-1"], "LBGAT needs beta >= 0, not -1"),
    "negative weight": (["train", "digits/nuat", "--method.weight", "-1"], "NuAT needs a weight of at least 0, not -1"),
    "teacher": (["train", "digits/lbgat", "--method.teacher", "resnet81"], "did you mean 'resnet18'?"),
    "teacher too large": (["train", "digits/lbgat", "--method.teacher", "preactresnet18-talk"], "at least 32x32"),
    "teacher's width": (["train", "digits/lbgat", "--method.teacher_width", "0"], "width must be at least 1, got 0"),
    "gap": (["train", "digits/sat", "--method.gap", "Constant", "--method.inner.attack.steps", "0"], "at least 1 step"),
    "FOSC": (["train", "digits/dart", "--method.threshold", "-1"], "threshold must be at least 0, not -1"),
    "until": (["train", "digits/dart", "--method.until", "1.5"], "write 100/120"),
    "tau": (["train", "digits/fat", "--method.milestones", "[50]"], "not a fraction of the run"),
    "begin": (["train", "digits/gairat", "--method.begin", "60"], "write 60/120"),
    "mastery": (["train", "digits/cat", "--method.mastery", "90"], "an accuracy in [0, 1), not 90"),
    "points": (["train", "digits/fgsm-ckpt", "--method.points", "0"], "needs at least 1 point, not 0"),
    "AWP(Free)": (
        ["train", "digits/awp", "--method.inner", "Free"],
        "Free takes its attack from the loss's own backward",
    ),
    "levels": (["train", "digits/cat", "--model.levels", "1"], "levels"),
    "level": (["train", "digits/fgsm-ga", "--runtime.level", "fast"], "level"),
    "graph": (
        ["train", "digits/fgsm-mep", "--runtime.level", "graph", "--runtime.accelerator", "cpu"],
        "runtime.level graph needs a GPU",
    ),
    "compact and compiled": (
        ["train", "digits/fat", "--runtime.level", "compile", "--runtime.compact", "true"],
        "leave one of the two out",
    ),
    "model": (["train", "digits/standard", "--model.name", "resnet81"], "did you mean 'resnet18'?"),
    "data": (["train", "digits/standard", "--data.name", "cifar01"], "did you mean 'cifar10'?"),
    "data path": (["train", "cifar10/standard", "--data.path", "nowhere"], "does not exist"),
    "limit": (["train", "digits/standard", "--data.limit", "5000"], "only 1437 images"),
    "selection": (["train", "digits/standard", "--selection.attack", "pdg-10"], "did you mean 'pgd-10'?"),
    "evaluated attack": (["evaluate", ".", "--attacks", "clean,gpd-20"], "did you mean 'pgd-20'?"),
    "no attack": (["evaluate", ".", "--attacks", ","], "No attack was named"),
    "subject": (["evaluate", "nowhere"], "There is no nowhere"),
    "no run": (["evaluate", "."], "model.safetensors"),
    "recipe's name": (["recipes", "show"], "needs the name of a recipe"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_sentence_and_status_2_and_writes_nothing(
    capsys, monkeypatch, tmp_path, arguments, sentence
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = sparring(capsys, *arguments)
    assert status == 2
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_a_class_count_that_does_not_fit(capsys, run, tmp_path) -> None:
    for number in range(3):
        for split in ("train", "test"):
            folder = tmp_path / split / f"class{number}"
            folder.mkdir(parents=True)
            Image.new("L", (8, 8), color=60 * number).save(folder / "image.png")
    status, _, err = sparring(capsys, "evaluate", run, "--data.name", "mine", "--data.path", tmp_path)
    assert status == 2
    assert "The model knows 10 classes, but mine has 3." in err


def test_data_that_cannot_be_right(capsys, tmp_path) -> None:
    corrupt = tmp_path / "corrupt"
    corrupt.mkdir()
    for name in ("train", "test"):
        (corrupt / f"{name}.parquet").write_bytes(b"PAR1 nonsense")
    one = tmp_path / "one"
    (one / "cats").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(one / "cats" / "cat.png")
    for folder, sentence in ((corrupt, "cannot be read as parquet"), (one, "only one sub-folder")):
        arguments = ("train", "cifar10/standard", "--data.name", "mine", "--data.path", folder)
        status, _, err = sparring(capsys, *arguments, "--run", tmp_path / "run")
        assert status == 2
        assert sentence in err
    assert not (tmp_path / "run").exists()


def test_an_unexpected_option_of_a_command_that_takes_none(capsys) -> None:
    status, _, err = sparring(capsys, "recipes", "list", "--seed", "3")
    assert status == 2
    assert "--seed" in err


def test_the_program_itself_ends_with_the_status(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sparring", "train", "digits/nothing"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("sparring: Unknown recipe")


def test_the_demo_shows_its_table_and_curves(capsys, monkeypatch, tmp_path) -> None:
    """With recipes cut short: what the demo prints and saves, not what it teaches."""
    short = ["--optimisation.epochs", "1", "--data.limit", "100", "--model.width", "4", "--selection.attack", "pgd-1"]
    from sparring import api, demo

    full = api.recipe
    monkeypatch.setattr(demo.api, "recipe", lambda name: full(name, short))
    threads = torch.get_num_threads()
    status, out, _ = sparring(capsys, "demo", "--run", tmp_path / "demo")
    torch.set_num_threads(threads)
    assert status == 0
    assert all(word in out for word in ("Standard", "FGSM-RS", "PGD-AT", "FGSM-MEP", "pgd-20", "training s"))
    with Image.open(tmp_path / "demo" / "robust-accuracy.png") as figure:
        assert figure.size[0] > 700
    assert sparring(capsys, "demo", "--run", tmp_path / "demo")[0] == 0, "a finished demo can be shown again"


def test_the_version_is_the_package_s(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"sparring {sparring_package.__version__}\n"
    assert sparring_package.__version__ == version("sparring")


def test_what_users_write_is_printed_as_it_is(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich would take it for markup, and fail at a tag that is closed and was never opened."""
    monkeypatch.chdir(tmp_path)
    status, out, err = sparring(capsys, "train", "digits/standard", "--run", "[bold]:fire:[/x]", *QUICK)
    assert (status, out) == (0, "Done: [bold]:fire:[/x]. Next: sparring evaluate [bold]:fire:[/x]\n")
    words = ("--attacks", "clean", "--samples", "10", "--output", "[/y]:ok:.json", "--no-doctor")
    status, out, _ = sparring(capsys, "evaluate", "[bold]:fire:[/x]", *words)
    assert (status, "Record: [/y]:ok:.json" in out) == (0, True)
    status, _, err = sparring(capsys, "evaluate", "[/z]:fire:")
    assert (status, "[/z]:fire:" in err) == (2, True)


def test_the_folder_of_a_run_can_be_resumed_as_it_is(capsys, run, tmp_path) -> None:
    status, out, _ = sparring(capsys, "train", run, "--resume")
    assert status == 0
    assert f"Done: {run}" in out
    status, _, err = sparring(capsys, "train", run)
    assert status == 2
    assert "already holds a run: add --resume" in err
    status, _, err = sparring(capsys, "train", tmp_path, "--resume")
    assert status == 2
    assert f"{tmp_path} holds no run, as there is no config.yaml in it" in err


def test_training_on_several_processes_is_refused_until_it_is_built(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, err = sparring(capsys, "train", "digits/fgsm-at", "--run", tmp_path / "run")
    assert status == 2
    assert "not built yet, and torchrun started 2, which would all write into" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("samples", "said"),
    [(4000, "--samples is 4000, but there are only 360 images"), (0, "--samples must be at least 1, not 0.")],
)
def test_a_number_of_samples_is_answered_as_it_was_asked(capsys, run, samples: int, said: str) -> None:
    status, _, err = sparring(capsys, "evaluate", run, "--samples", samples)
    assert status == 2
    assert said in err
