"""What the pages say is still so: links lead somewhere, the example method works, and the YAML in guides is read."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from sparring import configuration, recipes
from sparring.experiment import Experiment
from tests.methods.harness import bench, identical

ROOT = Path(__file__).parents[1]
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


def test_the_experiment_of_the_guide_is_read() -> None:
    for block in blocks(ROOT / "docs/guides/own-data.md", "yaml"):
        if "method:" in block and "data:" in block:
            assert configuration.read(Experiment, block).data.name != "digits"
            return
    pytest.fail("the guide shows no experiment")


def test_the_example_method_trains_and_resumes(tmp_path: Path) -> None:
    source = next(
        block for block in blocks(ROOT / "docs/guides/new-method.md", "python") if "class SharedStart" in block
    )
    file = tmp_path / "shared_start.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("shared_start", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["shared_start"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)

    whole = bench(module.SharedStart())
    losses = [loss.total.item() for loss in whole.steps(0, 16)]
    assert sum(losses[-4:]) < sum(losses[:4])
    first, second = bench(module.SharedStart()), bench(module.SharedStart(), seed=1)
    first.steps(0, 5)
    second.load(first.state())
    second.steps(5, 16)
    assert identical(whole.state(), second.state())
