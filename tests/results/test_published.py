"""The talk's figures as data: nothing is lost or changed, and every row that can be trained has a recipe that exists."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path

import pytest

from sparring import api, cli
from sparring.errors import BadInput
from sparring.results import published as module
from sparring.results import talk
from sparring.results.markdown import behind_recipe, table
from sparring.results.published import broken_defences, published
from sparring.threat import Ratio

FOLDER = Path(module.__file__).parent


def test_the_files_are_the_reference_s(shared) -> None:
    reference = Path(shared("cifar10")).parents[1] / "reference"
    for ours, theirs in (("published", "published_results"), ("published_bpda", "bpda_results")):
        assert (FOLDER / f"{ours}.csv").read_bytes() == (reference / f"{theirs}.csv").read_bytes()


def test_every_figure_of_the_file_is_in_a_row() -> None:
    with (FOLDER / "published.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = published()
    assert len(found) == len(rows) == 219
    columns = ("clean", "fgsm", "pgd10", "pgd20", "pgd50", "cw", "apgd", "aa")
    written = [row[column] for row in rows for column in columns if row[column]]
    assert [str(accuracy) for line in found for accuracy in line.accuracies.values()] == written
    assert sum(line.minutes is not None for line in found) == sum(bool(row["train_time_minutes"]) for row in rows)


def test_a_row_is_as_it_was_printed() -> None:
    (line,) = (
        line
        for line in published()
        if (line.source, line.method, line.checkpoint) == ("FGSM-PGI CIFAR-10 comparison", "FGSM-MEP", "last")
    )
    assert (line.dataset, line.network, line.schedule, line.eps) == (
        "CIFAR-10",
        "ResNet18",
        "multistep",
        Ratio("8/255"),
    )
    assert line.accuracies["aa"] == Decimal("49.00")
    assert str(line.accuracies["aa"]) == "49.00"
    assert line.minutes == 73


def test_every_row_is_in_one_table_and_its_recipe_is_read() -> None:
    tables = [talk.table(name) for name in talk.names()]
    lines = [line for whole in tables for row in whole.rows for line in row.published]
    assert len(lines) == len({id(line) for line in lines}) == 219
    rows = [row for whole in tables for row in whole.rows]
    for row in rows:
        if row.recipe is not None:
            api.recipe(row.recipe, row.settings)
    untrained = {(row.published[0].dataset, row.published[0].source) for row in rows if row.recipe is None}
    assert untrained == {
        ("ImageNet", "FGSM-SDI Table IX"),
        ("ImageNet", "FGSM-PGI ImageNet comparison"),
        ("CIFAR-10", "RobustBench leaderboard excerpt"),
        ("CIFAR-100", "RobustBench leaderboard excerpt"),
        ("CIFAR-10", "LAS-AT Table 5 (large WRN)"),  # Gowal et al.
    }


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        ("las-table-1", "LAS-AT (k=10)", lambda experiment: experiment.method.interval == 10),
        ("las-table-6", "LAS-AT (L1+L3)", lambda experiment: experiment.method.reward.terms == ("L1", "L3")),
        ("las-table-2", "MART", lambda experiment: experiment.model.name == "wideresnet-34-10"),
        ("las-table-5", "LBGAT", lambda experiment: experiment.model.name == "wideresnet-34-20"),
        ("las-awp", "AWP(I_train=15, eps_train=8)", lambda experiment: experiment.method.inner.attack.steps == 15),
        ("las-awp", "AWP(I_train=10, eps_train=15)", lambda experiment: experiment.threat.eps == Ratio("15/255")),
        ("sdi-table-2", "FGSM-SDI (input=Grad)", lambda experiment: experiment.method.inputs == "gradient"),
        ("sdi-table-6", "FGSM-RS", lambda experiment: type(experiment.optimisation.schedule).__name__ == "Cyclic"),
    ],
)
def test_settings_of_rows_are_those_that_are_printed(name, method, expected) -> None:
    (row,) = (row for row in talk.table(name).rows if row.method == method)
    assert expected(api.recipe(row.recipe, row.settings))


def test_an_unknown_table_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"Unknown table 'sdi-tabel-6': did you mean 'sdi-table-6'\?"):
        talk.table("sdi-tabel-6")


def test_the_talk_s_table_of_bpda() -> None:
    rows = broken_defences()
    assert len(rows) == 9
    assert (rows[6].defence, rows[6].norm, rows[6].accuracy, rows[6].marks) == (
        "Samangouei et al. (2018)",
        "L2",
        55,
        "**",
    )


def test_a_table_says_what_is_common_once_and_numbers_its_notes() -> None:
    text = table(talk.table("sdi-table-8"))
    assert text.startswith(
        "FGSM-SDI Table VIII, Tiny ImageNet, PreActResNet18, eps 8/255, multistep schedule; schedule"
    )
    assert text.count("official default, 110 epochs") == 1
    assert "| FGSM-GA [1] | best epoch | 34.04 | 5.58 |" in text
    assert text.splitlines()[-1].startswith("1. CONFLICT: ")


def test_a_recipe_is_shown_with_its_published_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "show", "cifar10/fgsm-rs"]) == 0
    shown = capsys.readouterr().out
    assert "# sdi-table-5 (FGSM-SDI Table V), with --model.name=wideresnet-34-10:\n" in shown
    assert (
        "#   last epoch, clean 83.82, PGD-10 0.09, PGD-20 0.04, PGD-50 0.02, C&W 0.00, APGD 0.00, AA 0.00, 51" in shown
    )
    assert not list(behind_recipe("digits/fgsm-rs"))
