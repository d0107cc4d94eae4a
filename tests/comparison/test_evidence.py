"""Tables that are in the repository: their figures are those of the records beside them, and the page shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.comparison.defences import DEFENCES
from sparring.evaluation.records import whole_records
from tests.comparison.written import lines

ROOT = Path(__file__).parents[2]
COMPARED = ROOT / "benchmarks/results/compare"


def test_the_table_of_defences_is_that_of_its_records() -> None:
    networks = {
        defence.name: "-".join(["cifar10-standard", *defence.network]).replace("--", "") for defence in DEFENCES
    }
    rows = lines(COMPARED / "bpda-cpu.csv")
    assert {row["defence"] for row in rows} == set(networks)
    for row in rows:
        name = row["defence"].replace(" ", "-").replace(",", "")
        (record,) = whole_records(COMPARED / f"cpu/{networks[row['defence']]}-seed0/evaluations/{name}")
        found = {entry["attack"]: 100 * entry["accuracy"] for entry in record["attacks"]}
        assert float(row["ours"]) == pytest.approx(found[row["attack"]])
        assert int(row["images"]) == record["n"]


@pytest.mark.parametrize("table", [file.stem for file in sorted(COMPARED.glob("*.md"))])
def test_the_page_shows_the_table_as_it_was_written(table: str) -> None:
    page = (ROOT / "docs/tables.md").read_text()
    rows = [line for line in (COMPARED / f"{table}.md").read_text().splitlines() if line.startswith("|")]
    assert "\n".join(rows) in page


@pytest.mark.parametrize("table", ["sdi-table-6"])
def test_a_table_of_methods_is_that_of_its_records(table: str) -> None:
    rows = lines(COMPARED / f"{table}-cpu.csv")
    measured = {}
    for folder in sorted(COMPARED.glob("cpu/*")):
        if (folder / "evaluations").is_dir():
            for record in whole_records(folder / "evaluations"):
                name = folder.name.partition("-")[2]
                for entry in record["attacks"]:
                    key = (name.partition("-optimisation")[0], record["subject"]["checkpoint"], entry["attack"])
                    measured[key] = 100 * entry["accuracy"]
    shown = 0
    for row in rows:
        recipe = row["recipe"].partition("/")[2]
        alone = measured.get(
            (recipe, "best", row["attack"])
        )  # where the last epoch is the best it has no record of its own
        assert float(row["ours"]) == pytest.approx(measured.get((recipe, row["epoch"], row["attack"]), alone))
        shown += 1
    assert shown == 6 * 2 * 7
