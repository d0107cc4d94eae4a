"""sparring compare: what it trains, measures and writes, what it does not repeat, and what it refuses to mix."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

from sparring import cli
from sparring.attacks import APGD, AutoAttack
from sparring.comparison import SCALES, compared, planned, render
from sparring.comparison.beside import Figure
from sparring.comparison.run import _stopped_at
from sparring.errors import BadInput
from sparring.results import talk
from sparring.training import Run
from tests.comparison.images import write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


ROWS = ("PGD-AT", "LAS-AT (k=20)")


def compare(*arguments: object) -> int:
    return cli.main(["compare", "las-table-1", "--scale", "smoke", *map(str, arguments)])


def only(*rows: str) -> list[str]:
    return [word for row in rows for word in ("--only", row)]


@pytest.fixture(scope="module")
def done(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two rows of a table, trained and measured."""
    out = tmp_path_factory.mktemp("done")
    assert compare("--data.path", images, "--out", out, *only(*ROWS)) == 0
    return out


def copied(done: Path, tmp_path: Path) -> Path:
    shutil.copytree(done, tmp_path / "copy")
    return tmp_path / "copy"


def jobs_in(out: Path, images: Path, *rows: str):
    return planned(talk.table("las-table-1"), "smoke", path=str(images), out=out, only=rows)


def lines_in(out: Path) -> list[dict[str, str]]:
    with (out / "las-table-1-smoke.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def records(out: Path) -> list[Path]:
    return sorted(out.glob("smoke/*/evaluations/*.json"))


# What is written ----------------------------------------------------------------------------------------------------------


def test_a_report_shows_the_table_and_its_rows(done: Path, images: Path, tmp_path: Path) -> None:
    page = tmp_path / "table.html"
    words = ["--scale", "smoke", "--data.path", images, "--compared", done, "--out", page, "--examples", "0"]
    assert cli.main(["report", "las-table-1", *map(str, words)]) == 0
    text = page.read_text()
    for line in lines_in(done):
        if line["seeds"] == "1":
            assert f">{float(line['ours']):.1f} ±{float(line['band']):.1f}<" in text
    assert text.count('<details class="run"') == len(ROWS)


def test_the_csv_has_the_figures_of_the_records_beside_the_published_ones(done: Path) -> None:
    lines = lines_in(done)
    assert len(lines) == 6 * 2
    ours = {(line["method"], line["attack"]): line for line in lines if line["seeds"] == "1"}
    assert set(ours) == {(row, attack) for row in ROWS for attack in ("clean", "pgd-10")}
    for file in records(done):
        content = json.loads(file.read_text())
        row = "LAS-AT (k=20)" if "las-at" in str(file) else "PGD-AT"
        assert content["n"] == 50
        for entry in content["attacks"]:
            line = ours[row, entry["attack"]]
            assert float(line["ours"]) == pytest.approx(100 * entry["accuracy"], abs=1e-9)
            assert line["images"] == "50"
    line = ours["PGD-AT", "pgd-10"]
    assert (line["published"], line["published_minutes"], line["recipe"]) == ("53.15", "261", "cifar10/pgd-at")
    assert float(line["difference"]) == pytest.approx(float(line["ours"]) - 53.15)
    assert float(line["minutes"]) > 0
    assert float(line["passes"]) == pytest.approx(23, rel=0.02)
    assert float(ours["LAS-AT (k=20)", "clean"]["passes"]) > 30
    assert "--model.width=4" in line["settings"]
    assert "data.path" not in line["settings"]
    absent = [line for line in lines if line["seeds"] == "0"]
    assert {line["ours"] for line in absent} == {""}
    assert absent[0]["published"] == "82.88"


def test_every_output_says_its_scale(done: Path) -> None:
    for ending in ("md", "tex"):
        text = (done / f"las-table-1-smoke.{ending}").read_text().replace("-{}", "-")
        for setting in SCALES["smoke"].settings:
            assert setting in text
        assert "50 test images" in text
        assert "--method.policy" in text.replace(r"\_", "_")


def test_the_latex_is_a_table_of_booktabs(done: Path) -> None:
    text = (done / "las-table-1-smoke.tex").read_text()
    columns = re.search(r"\\begin\{tabular\}\{(l+r+)\}", text)[1]
    assert columns == "lllrrrr"
    body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 2 * 3 + 4
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(columns)}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert re.findall(r"\\(begin|end)\{(\w+)\}", text) == [
        ("begin", "table"),
        ("begin", "tabular"),
        ("end", "tabular"),
        ("end", "table"),
    ]
    assert not re.search(r"(?<!\\)[%#_^~]", text)


def test_seeds_give_a_mean_and_a_deviation(images: Path, tmp_path: Path) -> None:
    assert compare("--data.path", images, "--out", tmp_path, "--seeds", 2, *only("PGD-AT")) == 0
    accuracies = [
        100 * Fraction(str(entry["accuracy"]))
        for file in records(tmp_path)
        for entry in json.loads(file.read_text())["attacks"]
        if entry["attack"] == "clean"
    ]
    assert len(accuracies) == 2
    line = lines_in(tmp_path)[0]
    assert (line["seeds"], line["attack"]) == ("2", "clean")
    assert float(line["ours"]) == pytest.approx(float(sum(accuracies) / 2))
    assert float(line["deviation"]) == pytest.approx(float(abs(accuracies[0] - accuracies[1])) / 2**0.5)
    assert "PGD-AT (2 seeds)" in (tmp_path / "las-table-1-smoke.md").read_text()


def test_a_row_is_attacked_at_the_radius_that_is_printed(images: Path, tmp_path: Path) -> None:
    table = talk.table("las-awp")
    (job,) = planned(table, "smoke", path=str(images), out=tmp_path, only=["AWP(I_train=10, eps_train=15)"])
    assert str(job.experiment().threat.eps) == "15/255"
    assert str(job.threat().eps) == "8/255"


def test_folders_of_data_sets_are_found_by_name(images: Path, tmp_path: Path) -> None:
    (tmp_path / "cifar10").symlink_to(images)
    (job,) = planned(talk.table("las-table-1"), "smoke", path=str(tmp_path), out=tmp_path, only=["PGD-AT"])
    assert job.experiment().data.path == str(tmp_path / "cifar10")


def test_a_table_that_cannot_be_trained_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "pgi-imagenet", "--out", str(tmp_path)]) == 0
    assert "as published: no row can be trained here" in capsys.readouterr().out
    assert cli.main(["compare", "robustbench", "--out", str(tmp_path)]) == 0
    assert "| published | 84.98 | 56.26 |" in (tmp_path / "robustbench-full.md").read_text()


# Nothing twice, nothing lost ----------------------------------------------------------------------------------------------


def test_what_is_done_is_not_repeated(done: Path, images: Path, tmp_path: Path, capsys) -> None:
    out = copied(done, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in out.glob("smoke/**/*") if file.is_file()}
    assert compare("--data.path", images, "--out", out, *only(*ROWS)) == 0
    assert {file: file.stat().st_mtime_ns for file in out.glob("smoke/**/*") if file.is_file()} == before
    assert "Training" not in capsys.readouterr().err
    assert (out / "las-table-1-smoke.csv").read_bytes() == (done / "las-table-1-smoke.csv").read_bytes()


def test_folders_of_two_machines_make_the_table_of_one(done: Path, images: Path, tmp_path: Path) -> None:
    """The images lie elsewhere on the other machine."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(images, elsewhere)
    here, there = tmp_path / "here", tmp_path / "there"
    assert compare("--data.path", images, "--out", here, *only(ROWS[0])) == 0
    assert compare("--data.path", elsewhere, "--out", there, *only(ROWS[1])) == 0
    shutil.copytree(there / "smoke", here / "smoke", dirs_exist_ok=True)
    assert compare("--data.path", images, "--out", here, "--no-training") == 0

    def figures(out: Path) -> list[dict[str, str]]:
        return [{name: value for name, value in line.items() if name != "minutes"} for line in lines_in(out)]

    assert figures(here) == figures(done)


def test_two_rows_at_a_time_give_the_same_table(done: Path, images: Path, tmp_path: Path) -> None:
    assert compare("--data.path", images, "--out", tmp_path, "--jobs", 2, *only(*ROWS)) == 0
    ours = render.as_csv(compared(talk.table("las-table-1"), "smoke", jobs_in(tmp_path, images), tmp_path))
    theirs = render.as_csv(compared(talk.table("las-table-1"), "smoke", jobs_in(done, images), done))
    minutes = re.compile(r"(best|last|unspecified),[\d.]*,")
    assert minutes.sub(r"\1,", ours) == minutes.sub(r"\1,", theirs)


def test_a_budget_that_is_used_up_leaves_the_rest_for_the_next_call(images: Path, tmp_path: Path, capsys) -> None:
    assert compare("--data.path", images, "--out", tmp_path, "--budget", "0s", *only("PGD-AT")) == 0
    assert "The time is up: the same command goes on." in capsys.readouterr().err
    assert not records(tmp_path)
    assert compare("--data.path", images, "--out", tmp_path, "--budget", "10m", *only("PGD-AT")) == 0
    assert len(records(tmp_path)) == 1


def test_a_budget_also_ends_what_ignores_ctrl_c_as_scripts_background_processes_do() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), _stopped_at(time.time() + 0.1):
            time.sleep(20)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_comparison_that_is_killed_goes_on_without_repeating_anything(
    done: Path, images: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "sparring", "compare", "las-table-1", "--scale", "smoke", "--out", str(tmp_path)]
    command += ["--data.path", str(images), *only(*ROWS)]
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **options) as process:
        for line in process.stderr:
            if line.startswith("Training cifar10-las-at"):
                break
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGKILL)
    (first,) = records(tmp_path)
    before = first.stat().st_mtime_ns
    finished = subprocess.run(command, stdout=subprocess.DEVNULL, check=True, **options)
    assert "Training cifar10-pgd-at" not in finished.stderr
    assert first.stat().st_mtime_ns == before
    figures = [
        [json.loads(file.read_text())["attacks"][1]["correct"] for file in records(out)] for out in (tmp_path, done)
    ]
    assert figures[0] == figures[1]


# What is refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [("accuracy", 0.99), ("correct", "3ffffffffffff")])
def test_a_record_that_was_changed_by_hand_is_refused(change, done: Path, images: Path, tmp_path: Path, capsys) -> None:
    out = copied(done, tmp_path)
    file = records(out)[0]
    content = json.loads(file.read_text())
    content["attacks"][0][change[0]] = change[1]
    file.write_text(json.dumps(content))
    assert compare("--data.path", images, "--out", out, "--no-training") == 2
    assert f"{file} is not as an evaluation wrote it: restore it" in capsys.readouterr().err


def test_rows_on_different_images_are_refused(done: Path, images: Path, tmp_path: Path, capsys) -> None:
    out, other = copied(done, tmp_path), write_images(tmp_path / "other", seed=1)
    assert compare("--data.path", other, "--out", tmp_path / "there", *only(ROWS[1])) == 0
    name = Path("smoke") / jobs_in(out, images, ROWS[1])[0].folder.name
    shutil.rmtree(out / name)
    shutil.copytree(tmp_path / "there" / name, out / name)
    assert compare("--data.path", images, "--out", out, "--no-training") == 2
    assert "was trained on other images" in capsys.readouterr().err


def test_finished_rows_are_not_shown_for_other_images(done: Path, tmp_path: Path, capsys) -> None:
    """Nor is another row trained on them, to be refused after its hour."""
    out, other = copied(done, tmp_path), write_images(tmp_path / "other", seed=1)
    for more in (["--no-training"], only("LAS-AT (k=1)")):
        assert compare("--data.path", other, "--out", out, *more, *only(*ROWS)) == 2
        assert "was trained on other images" in capsys.readouterr().err
    assert len(list((out / "smoke").iterdir())) == len(ROWS)


def test_a_folder_with_another_run_is_refused(done: Path, images: Path, tmp_path: Path, capsys) -> None:
    out = copied(done, tmp_path)
    config = Run(jobs_in(out, images, ROWS[0])[0].folder).config
    config.write_text(config.read_text().replace("epochs: 1\n", "epochs: 2\n"))
    assert compare("--data.path", images, "--out", out) == 2
    assert "was started with another configuration (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["las-tabel-1"], "Unknown table 'las-tabel-1': did you mean 'las-table-1'?"),
        ([], "compare needs the name of a table"),
        (["las-table-1", "--only", "PGD"], "Unknown row of las-table-1 'PGD': did you mean 'PGD-AT'?"),
        (["las-table-1", "--scale", "cpus"], "cpus"),
        (["las-table-1", "--seeds", "0"], "--seeds must be at least 1, not 0"),
        (["las-table-1", "--jobs", "0"], "--jobs must be at least 1, not 0"),
        (["las-table-1", "--budget", "2"], "--budget is '2': write a time such as 90s, 30m or 2h"),
        (["las-table-1", "--data.path", "/nowhere"], "'/nowhere', which does not exist"),
        (["las-table-3", "--data.path", "IMAGES"], "has 100 classes, but IMAGES has 10"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(arguments, said, images: Path, tmp_path: Path, capsys) -> None:
    words = [word.replace("IMAGES", str(images)) for word in arguments]
    assert cli.main(["compare", *words, "--out", str(tmp_path / "out")]) == 2
    assert said.replace("IMAGES", str(images)) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


OFFERED = """
import torch
from sparring.models import create

def network():
    torch.manual_seed(0)
    return create("smallconv", 10, width=4)
"""


def test_weights_that_robustbench_offers_are_shown_beside_its_figures(images, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(AutoAttack, "searches", lambda *_: {"apgd-ce": APGD(steps=2)})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "offered_for_tests.py").write_text(OFFERED)
    row = next(row for row in talk.table("robustbench").rows if row.model == "Wang2020Improving")
    assert (row.data, str(row.published[0].accuracies["aa"])) == ("cifar10", "56.29")
    evaluate = ["evaluate", "offered_for_tests:network", "--data.name", "cifar10", "--data.path", str(images)]
    output = ["--output", "out/robustbench/Wang2020Improving"]
    for words in (["--attacks", "clean", "--samples", "40"], ["--attacks", "clean,aa", "--samples", "20"]):
        assert cli.main([*evaluate, *output, *words, "--no-doctor"]) == 0
    more = ["--attacks", "clean,aa", "--threat.eps", "1/255", "--samples", "30"]
    assert cli.main([*evaluate, *output, *more, "--no-doctor"]) == 0
    assert cli.main(["compare", "robustbench", "--out", "out"]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/robustbench-full.csv").read_text())))
    ours = [row for row in rows if row["ours"]]
    assert [(row["attack"], row["published"]) for row in ours] == [("clean", "87.50"), ("aa", "56.29")]
    assert {row["images"] for row in ours} == {"20"}
    (record,) = (file for file in (tmp_path / output[1]).glob("Linf-8_255-20-*.json"))
    held = {entry["attack"]: 100 * entry["accuracy"] for entry in json.loads(record.read_text())["attacks"]}
    assert {row["attack"]: float(row["ours"]) for row in ours} == pytest.approx(held)
    assert "--output OUT/robustbench/MODEL" in " ".join(capsys.readouterr().out.split())
    record.write_text(record.read_text().replace('"n": 20', '"n": 21'))
    assert cli.main(["compare", "robustbench", "--out", "out"]) == 2
    assert "is not as an evaluation wrote it" in capsys.readouterr().err


def test_an_unknown_scale_is_refused_from_python(images: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"Unknown scale 'cpus': did you mean 'cpu'\?"):
        planned(talk.table("las-table-1"), "cpus", path=str(images), out=tmp_path)


def test_every_row_of_every_table_can_be_read_at_every_scale(tmp_path: Path) -> None:
    from sparring.comparison.job import Job

    for name in talk.names():
        table = talk.table(name)
        for row in (row for row in table.rows if row.recipe):
            for scale in SCALES.values():
                Job(row, scale, 0, None, tmp_path, table.attacks).experiment()


def test_a_figure_without_one_side_has_no_difference() -> None:
    assert Figure(None, None, None, 49.0).difference is None
    assert Figure(50.0, None, 1.0, None).difference is None
    assert Figure(50.0, None, 1.0, 49.0).difference == 1.0
