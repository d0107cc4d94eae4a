"""RobustBench's call and its files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

import sparring
from sparring.attacks import APGD, AutoAttack
from sparring.data import Data, load
from sparring.errors import BadInput
from sparring.evaluation import Outcome, Outcomes, naming
from sparring.models import create
from sparring.results.robustbench import entry, entry_file, write_entry
from sparring.threat import Threat


def evaluation() -> Outcomes:
    flags = {"clean": [True, True, True], "aa": [True, False, False]}
    return Outcomes(tuple(Outcome(name, torch.tensor(correct), 1.0, {}) for name, correct in flags.items()))


def test_a_benchmark_warns_of_what_the_doctor_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoAttack, "searches", lambda attack, classes, threat: {"apgd-ce": APGD(steps=3)})
    model = create("smallconv", 10, channels=1, size=8, width=4).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sparring.benchmark(model, 10, "digits", "L2")
    assert any(str(warning.message).startswith("The radius is L2 8/255") for warning in caught)


def test_an_entry_has_the_words_and_the_decimals_of_the_leaderboard() -> None:
    said = entry(evaluation(), load(Data()), Threat("Linf", "8/255"))
    assert said == {"dataset": "digits", "eps": "8/255", "clean_acc": "100.00", "autoattack_acc": "33.33"}


def test_an_entry_without_autoattack_is_refused() -> None:
    alone = Outcomes(evaluation().outcomes[:1])
    with pytest.raises(BadInput, match="needs the attacks clean and aa: aa was not run"):
        entry(alone, load(Data()), Threat())


def test_what_a_file_says_besides_is_kept(tmp_path: Path) -> None:
    known = entry(evaluation(), load(Data()), Threat())
    path = entry_file("digits", "Linf", "Ours2026First", tmp_path)
    write_entry(known, path)
    assert path == tmp_path / "digits" / "Linf" / "Ours2026First.json"
    content = json.loads(path.read_text())
    assert content["authors"] is None
    path.write_text(json.dumps(content | {"authors": "Us", "clean_acc": "0.00"}))
    write_entry(known, path)
    assert json.loads(path.read_text()) == content | {"authors": "Us"}


@pytest.mark.parametrize("content", [b"{broken", b"[1]", b"null", "é".encode("latin-1")])
def test_a_file_that_is_no_entry_is_refused_before_the_attacks(content: bytes, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sparring.api.evaluate", lambda *_, **__: pytest.fail("began"))
    file = tmp_path / "model_info/digits/Linf/Mine.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    model = create("smallconv", 10, channels=1, size=8, width=4).eval()
    with pytest.raises(BadInput, match=r"model_info/digits/Linf/Mine.json is (no entry of RobustBench's|not UTF-8)"):
        sparring.benchmark(model, 30, "digits", to_disk=True, model_name="Mine")
    assert file.read_bytes() == content


def test_the_call_returns_two_fractions_and_writes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoAttack, "searches", lambda attack, classes, threat: {"apgd-ce": APGD(steps=3)})
    assert naming.named("aa") == AutoAttack()
    model = create("smallconv", 10, channels=1, size=8, width=4).eval()
    clean, robust = sparring.benchmark(
        model, 30, "digits", eps="1/10", to_disk=True, model_name="Ours2026First", doctor=False
    )
    assert 0 <= robust <= clean <= 1
    content = json.loads((tmp_path / "model_info/digits/Linf/Ours2026First.json").read_text())
    assert content["clean_acc"] == f"{100 * clean:.2f}"
    assert content["eps"] == "1/10"
    images = load(Data()).test
    right = model(images.pixels[:30] / 255).argmax(1) == images.labels[:30]
    assert clean == pytest.approx(right.double().mean().item())
    with pytest.raises(BadInput, match="to_disk needs a model_name"):
        sparring.benchmark(model, 30, "digits", to_disk=True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"preprocessing": "Res256Crop224"}, "no preprocessing here: Data prepares images"),
        ({"log_path": "log.txt"}, r"no log_path here: evaluate\(\.\.\., output=FILE\) writes a record"),
        ({"aa_state_path": "state"}, r"no aa_state_path here: evaluate\(\.\.\., output=FILE\) goes on"),
        ({"corruptions_data_dir": "dir"}, "no corruptions_data_dir here"),
        ({"n_examples": -5}, "n_examples must be a whole number of at least 1, not -5"),
        ({"n_examples": 0}, "at least 1, not 0"),
        ({"n_examples": 1e3}, r"at least 1, not 1000\.0"),
        ({"device": "gpu"}, "There is no device 'gpu': write cpu, or cuda for a GPU"),
        ({"device": 1.5}, r"There is no device 1\.5"),
    ],
)
def test_what_it_has_not_is_said_before_the_data_are_loaded(wrong: dict[str, object], said: str) -> None:
    model = create("smallconv", 10, channels=1, size=8, width=4).eval()
    with pytest.raises(BadInput, match=said):
        sparring.benchmark(model, dataset="no such data", **wrong)  # type: ignore[arg-type]


def test_the_arguments_of_robustbench_may_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoAttack, "searches", lambda attack, classes, threat: {"apgd-ce": APGD(steps=3)})
    model = create("smallconv", 10, channels=1, size=8, width=4).eval()
    expected = sparring.benchmark(model, 10, "digits", doctor=False)
    none = {"device": None, "preprocessing": None, "log_path": None}
    assert sparring.benchmark(model, 10, "digits", doctor=False, **none) == expected
