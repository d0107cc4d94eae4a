"""sparring report: the verdict by its rules, what the page holds, what is refused; and in a browser, where there is one."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import sparring
from sparring import cli
from sparring.data import Images
from sparring.evaluation.records import CHECKSUM, checksum
from sparring.report.examples import examples
from sparring.report.verdict import collapses, verdict
from sparring.results.interval import interval
from sparring.threat import Ratio, Threat
from sparring.training.progress import Silent

LINF = Threat("Linf", Ratio("8/255"))


# The verdict --------------------------------------------------------------------------------------------------------------


def record(accuracies: dict[str, float], n: int = 1000, findings: tuple[dict[str, str], ...] = ()) -> dict[str, Any]:
    attacks = [{"attack": name, "accuracy": accuracy} for name, accuracy in accuracies.items()]
    return {"attacks": attacks, "worst": min(accuracies.values()), "n": n, "findings": list(findings)}


def history(*robust: float) -> list[dict[str, float]]:
    return [{"epoch": float(epoch), "robust": value} for epoch, value in enumerate(robust)]


def test_a_network_is_robust_where_it_is_surely_better_than_one_answer_for_all() -> None:
    good = verdict(record({"clean": 0.8, "aa": 0.45}), LINF, 10, history(0.4, 0.5), [])
    assert good.robust.state == "good"
    assert "aa on 45.0% of 1,000 test images (Linf, eps 8/255; 95% interval 41.9% to 48.1%)" in good.robust.text
    assert good.trusted
    chance = verdict(record({"clean": 0.8, "aa": 0.11}), LINF, 10, history(0.1), [])
    assert chance.robust.state == "bad"
    assert "always giving the same answer, 10.0%" in chance.robust.text


def test_what_was_never_attacked_has_no_verdict() -> None:
    for nothing in (None, record({"clean": 0.9})):
        found = verdict(nothing, LINF, 10, history(0.4), [])
        assert found.robust.state == "open"
        assert not found.trusted
        assert found.robustness is None


def test_each_doubt_is_named() -> None:
    warning = {"check": "square-after-all", "severity": "warning", "seen": "Square found 3%.", "why": "", "advice": ""}
    note = {"check": "class-names", "severity": "note", "seen": "Nothing much.", "why": "", "advice": ""}
    weak = verdict(record({"clean": 0.8, "pgd-20": 0.5}, 100, (warning, note)), LINF, 10, history(0.4), None)
    said = {mark.text: mark.state for mark in weak.trust}
    assert [state for text, state in said.items() if "AutoAttack" in text] == ["bad"]
    assert [state for text, state in said.items() if "100 test images only" in text] == ["open"]
    assert said["square-after-all: Square found 3%."] == "bad"
    assert not any("class-names" in text for text in said)
    assert [state for text, state in said.items() if "doctor was not asked" in text] == ["open"]
    assert not weak.trusted
    again = verdict(record({"clean": 0.8, "aa": 0.5}, findings=(warning,)), LINF, 10, history(0.4), [warning])
    assert sum("square-after-all" in mark.text for mark in again.trust) == 1
    assert not again.trusted


def test_catastrophic_overfitting_is_robust_accuracy_that_was_halved() -> None:
    assert collapses([0.1, 0.3, 0.41, 0.02, 0.0, 0.38]) == [3, 4]
    assert collapses([0.2, 0.3, 0.28, 0.16]) == []  # not by half
    assert collapses([0.12, 0.05]) == []  # too little to tell
    fallen = verdict(None, LINF, 10, history(0.3, 0.41, 0.02), None).training
    assert fallen[0].state == "bad"
    assert "was 41.0% at best and 2.0% in epoch 3" in fallen[0].text
    faded = verdict(None, LINF, 10, history(0.3, 0.5, 0.42), None).training
    assert [mark.state for mark in faded] == ["good", "bad"]
    assert "Best in epoch 2 of 3 (50.0% on held-out images), 42.0% in the last" in faded[1].text


def test_the_interval_is_wilsons() -> None:
    """Its ends are the shares p with (share - p)^2 = z^2 p (1 - p) / n."""
    for share, count in ((0.5, 100), (0.02, 50), (0.0, 50), (0.97, 1000)):
        for end in interval(share, count):
            assert (share - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / count, abs=1e-12)


# The page -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on digits, with diagnostics and without, measured on 40 images; one has a name that is no HTML."""
    folder = tmp_path_factory.mktemp("runs")
    for name, recipe, more in (
        ("a", "digits/fgsm-mep", ["--diagnostics.train_images", "50", "--diagnostics.images", "2"]),
        ("b<i>", "digits/fgsm-rs", []),
    ):
        experiment = sparring.recipe(recipe, ["--optimisation.epochs", "2", "--data.limit", "300", *more])
        sparring.train(experiment, folder / name, report=Silent())
        sparring.evaluate(
            sparring.load(folder / name),
            replace(experiment.data, test_limit=40),
            experiment.threat,
            ["clean", "pgd-20"],
            output=folder / name / "evaluations",
        )
    return folder


def report(*arguments: object) -> int:
    return cli.main(["report", *map(str, arguments)])


class _Seen(HTMLParser):
    """The addresses that a page asks for, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    file = runs / "both.html"
    assert report(runs / "a", runs / "b<i>", "--out", file, "--examples", 3) == 0
    return file


def test_the_page_is_whole_and_asks_for_nothing(page: Path) -> None:
    seen = _Seen(page.read_text())
    assert all(address.startswith(("data:", "#")) for address in seen.addresses)
    assert sum(address.startswith("data:image/svg") for address in seen.addresses) == 3 + 4 + 2
    assert sum(address.startswith("data:image/png") for address in seen.addresses) == 2 * 3 * 3
    assert "b<i>" in seen.text  # as text, not as a tag
    assert "Figure overfitting: metrics.csv of b<i> has no column train_robust" in seen.text
    assert "method.class_path" in seen.text
    assert "/tmp/" not in page.read_text().replace(str(page.parent), "")


def test_its_figures_are_those_of_the_records(page: Path, runs: Path) -> None:
    (file,) = (runs / "a/evaluations").glob("*.json")
    held = json.loads(file.read_text())
    assert f"{100 * held['worst']:.1f}%" in page.read_text()
    for entry in held["attacks"]:
        row = rf'<th scope="row">{entry["attack"]}</th><td class="number" data-value="{entry["accuracy"]}">'
        assert row in page.read_text()


def test_without_examples_no_image_is_read_and_that_is_said(runs: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sparring.report.contents.load", lambda *_, **__: pytest.fail("images were read"))
    assert report(runs / "a", "--out", tmp_path / "r.html", "--examples", 0) == 0
    text = (tmp_path / "r.html").read_text()
    assert "The doctor was not asked" in text
    assert "data:image/png" not in text


def test_images_that_are_gone_are_said_to_be(runs: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(runs / "a", moved, ignore=shutil.ignore_patterns("checkpoints"))  # which know the configuration
    config = moved / "config.yaml"
    config.write_text(
        config.read_text().replace("name: digits", "name: parquet\n  path: nowhere").replace("  path: null\n", "")
    )
    assert report(moved, "--out", tmp_path / "r.html") == 0
    assert "No adversarial examples, and no word of the doctor: " in (tmp_path / "r.html").read_text()


def test_a_record_of_other_images_is_not_the_run_s(runs: Path, tmp_path: Path) -> None:
    """Images elsewhere under the same name: `--data.path` leaves the name as it is."""
    copy = tmp_path / "copy"
    shutil.copytree(runs / "a", copy)
    (file,) = (copy / "evaluations").glob("*.json")
    held = json.loads(file.read_text())
    held["attacks"].append(held["attacks"][1] | {"attack": "aa", "accuracy": 0.1})
    held |= {"worst": 0.1, "data": held["data"] | {"train_fingerprint": "0" * 16}}
    held[CHECKSUM] = checksum(held)
    (copy / "evaluations/another.json").write_text(json.dumps(held))
    assert report(copy, "--out", tmp_path / "r.html", "--examples", 0) == 0
    text = (tmp_path / "r.html").read_text()
    assert "on 10.0%" not in text
    assert "1 of 2 records are of other weights, such as the last epoch&#39;s, of other images" in text


def test_a_record_with_autoattack_counts_before_a_larger_one_without(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs / "a", copy)
    (file,) = (copy / "evaluations").glob("*.json")
    held = json.loads(file.read_text())
    held |= {"n": 30, "worst": 0.1}
    held["attacks"].append(held["attacks"][1] | {"attack": "aa", "accuracy": 0.1})
    held[CHECKSUM] = checksum(held)
    (copy / "evaluations/another.json").write_text(json.dumps(held))
    assert report(copy, "--out", tmp_path / "r.html", "--examples", 0) == 0
    text = (tmp_path / "r.html").read_text()
    assert "on 10.0% of 30 test images" in text
    assert "Of 2 records of this network one is shown" in text


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("subject", "fingerprint", "0" * 16), ("data", "name", "mnist"), ("threat", "eps", "1/10")],
)
def test_records_of_something_else_are_left_out_and_that_is_said(part, key, value, runs: Path, tmp_path: Path) -> None:
    """Other weights, another data set, another threat."""
    copy = tmp_path / "copy"
    shutil.copytree(runs / "a", copy)
    (file,) = (copy / "evaluations").glob("*.json")
    held = json.loads(file.read_text())
    held[part][key] = value
    held[CHECKSUM] = checksum(held)
    file.write_text(json.dumps(held))
    assert report(copy, "--out", tmp_path / "r.html", "--examples", 0) == 0
    text = (tmp_path / "r.html").read_text()
    assert "1 of 1 records are of other weights" in text
    assert "no attack on its best network is on record" in text


def test_a_table_is_reported_with_its_rows(tmp_path: Path, runs: Path, capsys) -> None:
    """None of its rows has been trained: refused; a run beside it: the published figures are shown."""
    arguments = ("--compared", tmp_path / "none", "--out", tmp_path / "r.html", "--examples", 0)
    assert report("robustbench", *arguments) == 2
    assert "No row of robustbench has been trained: sparring compare robustbench." in capsys.readouterr().err
    assert report("robustbench", runs / "a", *arguments) == 0
    seen = _Seen((tmp_path / "r.html").read_text())
    assert "robustbench: RobustBench's entries that the talk shows" in seen.text
    assert "published" in seen.text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "Unknown run or table 'nowhere'"),
        (["sdi-table-66"], "did you mean 'sdi-table-6'?"),
        (["."], "holds no run, as there is no config.yaml in it"),
        (["a", "a"], "The same run is given twice"),
        (["a", "--out", "r.pdf"], "A report is written as .html: name the file so, not r.pdf."),
        (["a", "--examples", "-1"], "--examples must be at least 0, not -1."),
        (["a", "--out", "file/r.html"], "file"),
    ],
)
def test_what_cannot_be_reported_is_refused(arguments, sentence, runs: Path, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    words = [str(runs / word) if word == "a" else word for word in arguments]
    assert report(*words) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unfinished_run_is_refused_with_the_way_on(runs: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs / "a", copy)
    lines = (copy / "metrics.csv").read_text().splitlines(keepends=True)
    (copy / "metrics.csv").write_text("".join(lines[:2]))
    assert report(copy, "--out", tmp_path / "r.html") == 2
    said = capsys.readouterr().err
    assert "is not finished, 1 of 2 epochs: go on by sparring train" in said
    assert "--resume" in said
    assert not (tmp_path / "r.html").exists()


def test_a_record_that_was_changed_by_hand_is_refused(runs: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs / "a", copy)
    (file,) = (copy / "evaluations").glob("*.json")
    file.write_text(re.sub(r'"worst": [0-9.]+', '"worst": 0.99', file.read_text()))
    assert report(copy, "--out", tmp_path / "r.html") == 2
    assert "is not as an evaluation wrote it" in capsys.readouterr().err


def test_examples_are_what_the_network_says() -> None:
    """A network that answers by the first pixel: its clean answers are the labels, its adversarial ones are its own."""

    class First(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            lit = x[:, 0, 0, 0] - 0.5
            return 20 * torch.stack([-lit, lit], 1)

    pixels = torch.zeros(4, 3, 4, 4)
    pixels[:, 0, 0, 0] = torch.tensor([0.45, 0.9, 0.55, 0.2])
    labels = torch.tensor([0, 1, 0, 0])  # the third is wrong from the start
    found = examples(First(), Images(pixels, labels), Threat("Linf", Ratio("1/10")), ("dark", "lit"), 4, "cpu")
    assert [(one.label, one.said, one.said_then) for one in found] == [
        ("dark", "dark", "lit"),
        ("lit", "lit", "lit"),
        ("dark", "dark", "dark"),
    ]
    assert [one.fooled for one in found] == [True, False, False]
    assert found[0].confidence == pytest.approx(1 / (1 + torch.tensor(-2.0).exp().item()), abs=1e-4)


# In a browser -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium: make browser installs it on Debian")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[tuple[Any, list[str]]]:
    """The page at a desk's width, and what went wrong with it."""
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: wrong.append(request.url))
    tab.goto(page.as_uri())
    wrong.remove(page.as_uri())
    yield tab, wrong
    tab.close()


def test_a_browser_shows_it_without_an_error_or_a_request(opened: tuple[Any, list[str]]) -> None:
    tab, wrong = opened
    for details in tab.locator("details.run").all():
        details.locator("summary").first.click()
    sizes = tab.eval_on_selector_all(
        "img", "pictures => Promise.all(pictures.map(one => one.decode().then(() => one.naturalWidth)))"
    )
    assert len(sizes) == 3 + 4 + 2 + 2 * 3 * 3
    assert all(sizes)
    assert [address for address in wrong if not address.startswith("data:")] == []


def test_columns_sort_by_value_and_rows_are_filtered(opened: tuple[Any, list[str]], runs: Path) -> None:
    tab, wrong = opened
    with (runs / "a/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    heads = tab.locator("#runs thead th")
    names = heads.all_inner_texts()
    column = names.index("robust accuracy")

    def values() -> list[float]:
        cells = tab.locator(f"#runs tbody tr > :nth-child({column + 1})")
        return [float(cell.get_attribute("data-value")) for cell in cells.all()]

    heads.nth(column).get_by_role("button").press("Enter")  # by the keyboard
    assert values() == sorted(values())
    assert heads.nth(column).get_attribute("aria-sort") == "ascending"
    heads.nth(column).get_by_role("button").click()
    assert values() == sorted(values(), reverse=True)
    assert heads.nth(column).get_attribute("aria-sort") == "descending"
    tab.get_by_label("Show the runs whose row contains").fill("b<i>")
    assert tab.locator("#runs tbody tr:visible").count() == 1
    assert tab.get_by_role("status").inner_text() == "1 of 2"
    assert wrong == [] or all(address.startswith("data:") for address in wrong)


def test_nothing_scrolls_sideways_on_a_telephone(opened: tuple[Any, list[str]]) -> None:
    tab, _ = opened
    tab.set_viewport_size({"width": 390, "height": 800})
    for details in tab.locator("details.run, details.run details").all():
        details.evaluate("part => { part.open = true }")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_link_opens_the_run_and_the_theme_changes(opened: tuple[Any, list[str]]) -> None:
    tab, _ = opened
    second = tab.locator("details.run").nth(1)
    assert second.get_attribute("open") is None
    tab.locator("#runs tbody a").nth(1).click()
    assert second.get_attribute("open") is not None
    before = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.get_by_role("button", name="Dark or light").click()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != before
