"""sparring figure: every figure from real runs, and what is said where a run lacks what it needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sparring import cli
from sparring.gallery import FIGURES, draw

QUICK = ("--optimisation.epochs", "2", "--data.limit", "200", "--model.width", "4", "--selection.images", "10")
RECORDED = ("--diagnostics.every", "2", "--diagnostics.images", "2", "--diagnostics.train_images", "20")
SINGLE = ("actions", "samples", "perturbations", "picture")
PICTURES = ("perturbations", "grad-cam", "picture")


def trained(recipe: str, folder: Path, *settings: str) -> Path:
    assert cli.main(["train", f"digits/{recipe}", "--run", str(folder), *QUICK, *settings]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    found = {f"fgsm-ep-seed{seed}": trained("fgsm-ep", folder / f"fgsm-ep-seed{seed}", *RECORDED) for seed in "01"}
    found |= {"las": trained("las-at", folder / "las", *RECORDED)}
    for run in found.values():
        words = ["--attacks", "clean,fgsm,pgd-2", "--samples", "50", "--no-doctor"]
        assert cli.main(["evaluate", str(run), *words]) == 0
    return found | {"bare": trained("fgsm-ep", folder / "bare")}


@pytest.mark.parametrize("name", [name for name, kind in FIGURES.items() if kind.of_runs and name != "ablation"])
def test_every_figure_is_drawn_from_real_runs(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    of = ["las"] if name in SINGLE else ["fgsm-ep-seed0", "fgsm-ep-seed1", "las"]
    file = tmp_path / "figure.png"
    assert cli.main(["figure", name, *(str(runs[run]) for run in of), "--out", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    figure = draw(name, [runs[run] for run in of])
    plots = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in plots) or name in PICTURES


def test_repeated_runs_are_one_band(runs: dict[str, Path]) -> None:
    figure = draw("seeds", [runs["fgsm-ep-seed0"], runs["fgsm-ep-seed1"], runs["las"]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fgsm-ep (2 runs)", "las (1 run)"]


def test_accuracies_by_attack_are_those_of_the_records(runs: dict[str, Path]) -> None:
    of = [runs["fgsm-ep-seed0"], runs["las"]]
    held = []
    for run in of:
        (record,) = (run / "evaluations").glob("*.json")
        held.append({entry["attack"]: 100 * entry["accuracy"] for entry in json.loads(record.read_text())["attacks"]})
    (axes,) = draw("attacks", of).axes
    drawn = [[bar.get_height() for bar in container] for container in axes.containers]
    assert drawn == [pytest.approx(list(found.values())) for found in held]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["clean", "FGSM", "pgd-2"]


def test_an_ablation_is_by_the_setting_that_differs(runs: dict[str, Path], tmp_path: Path) -> None:
    seeds = [runs["fgsm-ep-seed1"], runs["fgsm-ep-seed0"]]
    for number, run in enumerate(seeds):
        shutil.copytree(run, tmp_path / str(number), ignore=shutil.ignore_patterns("checkpoints"))
        config = tmp_path / str(number) / "config.yaml"
        config.write_text(config.read_text().replace("\nseed: 0", f"\nseed: {10 - number}"))
    (axes,) = draw("ablation", [tmp_path / "0", tmp_path / "1"]).axes
    assert axes.get_xlabel() == "seed"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["9", "10"]
    clean = axes.get_lines()[0].get_ydata()
    (record,) = (tmp_path / "1/evaluations").glob("*.json")
    assert clean[0] == 100 * json.loads(record.read_text())["attacks"][0]["accuracy"]


def test_runs_of_one_name_are_told_apart_by_their_folders(runs: dict[str, Path], tmp_path: Path) -> None:
    for parent in ("one", "other"):
        (tmp_path / parent).mkdir()
        (tmp_path / parent / "same").symlink_to(runs["las"] if parent == "one" else runs["bare"])
    links = [tmp_path / parent / "same" for parent in ("one", "other")]
    figure = draw("robust-accuracy", links)
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"las", "bare"}  # where the links lead


@pytest.mark.parametrize(
    ("name", "of", "said"),
    [
        ("overfitings", ["las"], "Unknown figure 'overfitings': did you mean 'overfitting'?"),
        ("attacks", ["bare"], "bare has no record of its best epoch: sparring evaluate"),
        ("ablation", ["las", "fgsm-ep-seed0"], "is of runs that differ in one setting, and these differ in method"),
        ("overfitting", [], "The figure overfitting needs the folder of a run, or of several."),
        ("overfitting", ["bare"], "has no column train_robust: train it with diagnostics.train_images above 0"),
        ("perturbations", ["bare"], "train with diagnostics.images above 0"),
        ("actions", ["bare"], "was trained by EP, which chooses no actions: give a run of LAS"),
        ("actions", ["las", "bare"], "This figure is of one run, not of 2."),
        ("samples", ["bare"], "eps_expected.csv"),
        ("minutes", ["las", "las"], "The same run is given twice"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(name, of, said, runs, tmp_path, capsys) -> None:
    file = tmp_path / "figure.png"
    assert cli.main(["figure", name, *(str(runs[run]) for run in of), "--out", str(file)]) == 2
    assert said in capsys.readouterr().err
    assert not file.exists()


def test_what_holds_no_run_and_other_kinds_of_files_are_refused(runs, tmp_path, capsys) -> None:
    assert cli.main(["figure", "minutes", str(tmp_path), "--out", str(tmp_path / "a.png")]) == 2
    assert "holds no run, as there is no config.yaml in it" in capsys.readouterr().err
    assert cli.main(["figure", "minutes", str(runs["las"]), "--out", str(tmp_path / "a.pdf")]) == 2
    assert "A figure is written as .png or .svg" in capsys.readouterr().err
    assert cli.main(["figure"]) == 2
    assert "figure needs the name of one" in capsys.readouterr().err


def test_norms_are_of_one_radius(runs, tmp_path, capsys) -> None:
    other = trained("fgsm-ep", tmp_path / "other", *RECORDED, "--threat.eps", "0.1")
    assert cli.main(["figure", "norms", str(runs["las"]), str(other), "--out", str(tmp_path / "a.png")]) == 2
    assert "The figure norms is of runs against one radius in Linf" in capsys.readouterr().err


def test_a_damaged_metrics_file_is_said_to_be(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs["las"], copy)
    for line in ("garbage,x\n", "1\n"):
        (copy / "metrics.csv").write_text((runs["las"] / "metrics.csv").read_text() + line)
        assert cli.main(["figure", "robust-accuracy", str(copy), "--out", str(tmp_path / "f.png")]) == 2
        assert "metrics.csv is damaged, it holds something that is no number" in capsys.readouterr().err
