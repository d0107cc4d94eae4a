"""What the pages say is still so: links lead somewhere, the example method works, and the YAML in guides is read."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from pathlib import Path
from statistics import median

import pytest

from benchmarks.accuracy import published
from benchmarks.accuracy import tables as accuracy_tables
from benchmarks.evaluation import tables
from benchmarks.harness.pages import renewed
from sparring import configuration, methods, recipes
from sparring.attacks import PGD
from sparring.errors import BadInput
from sparring.experiment import Experiment
from sparring.methods import AWP, LAS, TRADES
from tests.methods.harness import bench, identical, task

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "results"
GUIDE_TO_METHODS = ROOT / "docs" / "guides" / "new-method.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_recipes_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"sparring (?:train|recipes show|recipes copy) ([a-z0-9_]+/[a-z0-9-]+)(?![\w/.])", page.read_text()
    )
    assert not {name for name in named if not name.startswith("runs/")} - set(recipes.names())


def test_the_experiments_of_the_guide_are_read() -> None:
    found = [block for block in blocks(ROOT / "docs/guides/own-data.md", "yaml") if "method:" in block]
    whole, short, long, parts = (configuration.read(Experiment, block) for block in found)
    assert whole.data.name == "parts"
    assert str(whole.method.attack.alpha) == "1/255"
    assert short == long
    assert short.method == AWP(TRADES(beta=6), gamma=0.01)
    assert parts.method.attack.alpha == 0.125


def compositions() -> list[str]:
    """Methods around methods, as the pages write them: `AWP(TRADES(beta=6))`."""
    return sorted(
        {text for page in PAGES for text in re.findall(r"`((?:AWP|FAT|SAT|DART|LAS)\(\w+\(.*?\)\))`", page.read_text())}
    )


@pytest.mark.parametrize("text", compositions())
def test_compositions_in_pages_work_in_python_and_as_yaml(text: str) -> None:
    classes = {name: getattr(methods, name) for name in methods.__all__}
    method = eval(text, {"PGD": PGD, **classes})  # noqa: S307 - the text is our own
    method.setup(task())
    read = configuration.read(Experiment, f"method: {text}").method
    read.setup(task())
    assert type(read) is type(method)


def test_a_fault_in_a_composition_is_noticed() -> None:
    assert len(compositions()) > 2
    with pytest.raises(BadInput, match="more than the 10"):
        LAS(AWP(TRADES(beta=6))).setup(task())


def test_the_example_method_trains_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = next(block for block in blocks(GUIDE_TO_METHODS, "python") if "class SharedStart" in block)
    file = tmp_path / "shared_start.py"
    loop = next(block for block in blocks(GUIDE_TO_METHODS, "python") if "Session(" in block)
    file.write_text(f"{source}\n{loop}")
    spec = importlib.util.spec_from_file_location("shared_start", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["shared_start"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    printed = [[float(number) for number in line.split()] for line in capsys.readouterr().out.splitlines()]
    assert (module.session.epoch, len(printed)) == (2, 2 * module.data.steps_per_epoch)
    assert all(math.isfinite(loss) and 0 < size < 0.2 + 1e-6 for loss, size in printed)

    whole = bench(module.SharedStart())
    losses = [loss.total.item() for loss in whole.steps(0, 16)]
    assert sum(losses[-4:]) < sum(losses[:4])
    first, second = bench(module.SharedStart()), bench(module.SharedStart(), seed=1)
    first.steps(0, 5)
    second.load(first.state())
    second.steps(5, 16)
    assert identical(whole.state(), second.state())


def with_tables_of_records(text: str) -> str:
    """A page whose tables of accuracies and of evaluations are rendered again from the committed records."""
    for record in re.findall(r"^<!-- accuracy: (\S+)", text, re.MULTILINE):
        runs = {record: accuracy_tables.read(RECORDS / f"{record}.json")}
        text = renewed(text, "accuracy", runs, lambda found: accuracy_tables.markdown(*found))
    for names in re.findall(r"^<!-- evaluation: (.+) -->$", text, re.MULTILINE):
        records = {name: tables.read(RECORDS / f"{name}.json") for name in names.split()}
        text = renewed(text, "evaluation", records, tables.markdown)
    if "<!-- published: " in text:
        text = renewed(text, "published", published.tables(), "\n\n".join)
    return text


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent.name != "benchmarks"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_tables_of_accuracies_are_those_of_their_records(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == with_tables_of_records(text)


def test_a_wrong_digit_in_a_table_of_accuracies_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = {"clean": 0.9, "pgd-20": 0.321}
    run = {"method": "weak", "seed": 0, "last": accuracies, "best": accuracies, "passes": 5.0, "train_seconds": 10.0}
    (tmp_path / "by-hand.json").write_text(json.dumps({"runs": [run]}))
    monkeypatch.setattr(sys.modules[__name__], "RECORDS", tmp_path)
    right = with_tables_of_records("Text.\n\n<!-- accuracy: by-hand -->\n<!-- end of accuracy -->\n")
    assert with_tables_of_records(right) == right
    wrong = right.replace("32.1", "32.2", 1)
    assert wrong != right
    assert with_tables_of_records(wrong) == right
    with pytest.raises(BadInput, match=r"nowhere\.json"):
        with_tables_of_records("<!-- accuracy: nowhere -->\n<!-- end of accuracy -->\n")


def test_a_wrong_digit_in_a_published_table_is_noticed() -> None:
    page = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
    assert page.count("| 49.00 | 73 | `cifar10/fgsm-mep` |") > 0
    wrong = page.replace("| 49.00 | 73 | `cifar10/fgsm-mep` |", "| 49.01 | 73 | `cifar10/fgsm-mep` |", 1)
    assert with_tables_of_records(wrong) == page


@pytest.mark.parametrize(
    ("record", "races", "theirs"),
    [
        ("race-cpu", "against_research", "research"),
        ("race-cpu-pgd", "against_research", "research"),
        ("race-cpu-all", "against_research", "research"),
        ("race-cpu-rest", "against_research", "research"),
        ("race-cpu-compile", "against_research", "research"),
        ("frameworks-cpu", "against_libraries", "theirs"),
    ],
)
def test_the_ratios_of_speed_are_those_of_the_records(record: str, races: str, theirs: str) -> None:
    page = (ROOT / "docs/performance.md").read_text()
    for race in json.loads((RECORDS / f"{record}.json").read_text())[races]:
        for seconds in race["ours"].values():
            ratios = [slow / fast for slow, fast in zip(race[theirs], seconds, strict=True)]
            assert f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" in page, race
