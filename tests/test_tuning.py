"""sparring tune: what is tried, what is kept, and that a search goes on where it stopped."""

from __future__ import annotations

import builtins
import json
import signal
from pathlib import Path

import pytest

from sparring import cli
from sparring.errors import BadInput
from sparring.training import Interrupted, Run
from sparring.training.progress import Silent
from sparring.tuning import Parameter, Trial, Tuning, parameter
from tests.training.runs import Interrupts

QUICK = (
    *("--data.limit", "200", "--data.validation", "60", "--model.width", "4", "--optimisation.epochs", "1"),
    *("--selection.attack", "pgd-2"),
)
SPACE = (parameter(["optimisation.lr", "log:0.01..0.3"]), parameter(["method.attack.steps", "1", "2"]))


def tuning(folder: Path, **changes: object) -> Tuning:
    parts = {"recipe": "digits/pgd-at", "overrides": QUICK, "space": SPACE, "folder": folder}
    return Tuning(**(parts | changes))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "1", "2"], Parameter("a", ("1", "2"))),
        (["a", "[8/255]", "[10/255]"], Parameter("a", ("[8/255]", "[10/255]"))),
        (["a", "5..15"], Parameter("a", (), 5, 15)),
        (["a", "-1..0.5"], Parameter("a", (), -1, 0.5)),
        (["a", "log:1e-4..1e-2"], Parameter("a", (), 1e-4, 1e-2, True)),
    ],
)
def test_what_is_tried_is_read(words: list[str], expected: Parameter) -> None:
    assert parameter(words) == expected


@pytest.mark.parametrize("search", ["bayes", "random"])
def test_a_search_that_was_stopped_ends_as_one_that_was_not(search: str, tmp_path: Path) -> None:
    whole = tuning(tmp_path / "whole", search=search).run(4, report=Silent)
    stopped = tuning(tmp_path / "stopped", search=search)
    assert len(stopped.run(1, report=Silent)) == 1
    with pytest.raises(Interrupted):
        stopped.run(4, report=lambda: Interrupts(1, signal.SIGTERM))
    assert len(stopped.done()) == 1
    again = stopped.run(4, report=Silent)

    def without_minutes(trials: list[Trial]) -> list[tuple[object, ...]]:
        return [(trial.settings, trial.folder, trial.robust, trial.clean) for trial in trials]

    assert without_minutes(again) == without_minutes(whole)
    assert len({json.dumps(trial.settings) for trial in whole}) > 1
    for trial in whole:
        rows = Run(tmp_path / "whole" / trial.folder).metrics()
        assert trial.robust == max(row["robust"] for row in rows)
        config = Run(tmp_path / "whole" / trial.folder).config.read_text()
        assert f"steps: {trial.settings['method.attack.steps']}" in config
        assert 0.01 <= float(trial.settings["optimisation.lr"]) <= 0.3
    assert whole == tuning(tmp_path / "whole", search=search).run(3, report=Silent)  # there are more


def test_a_bayesian_search_goes_where_it_was_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a made-up accuracy that is best at 0.7, random draws are spread evenly, and later trials gather."""

    def tried(self: Tuning, settings: dict[str, str], name: str, report: object) -> Trial:
        return Trial(dict(settings), name, 1 - abs(float(settings["x"]) - 0.7), 1.0, 0.0)

    monkeypatch.setattr(Tuning, "_tried", tried)
    monkeypatch.setattr("sparring.api.recipe", lambda *_: None)
    monkeypatch.setattr("sparring.configuration.to_yaml", lambda _: "")
    distances = {}
    for search in ("bayes", "random"):
        found = tuning(tmp_path / search, search=search, space=(parameter(["x", "0.0..1.0"]),)).run(30, report=Silent)
        values = [abs(float(trial.settings["x"]) - 0.7) for trial in found[10:]]
        distances[search] = sum(values) / len(values)
    assert distances["random"] > 0.2
    assert distances["bayes"] < distances["random"] / 2


def test_a_trial_that_diverges_is_counted_and_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "digits/pgd-at", *QUICK, "--try", "optimisation.lr", "1e20", "0.1", "--trials", "6"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "diverged" in out
    trials = json.loads((tmp_path / "trials.json").read_text())["trials"]
    assert {trial["robust"] is None for trial in trials} == {True, False}
    assert all((trial["robust"] is None) == (trial["settings"]["optimisation.lr"] == "1e20") for trial in trials)
    best = max((trial for trial in trials if trial["robust"] is not None), key=lambda trial: trial["robust"])
    assert f"Best on held-out images: {tmp_path / best['folder']}" in out
    before = (tmp_path / "trials.json").stat().st_mtime_ns
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "trials.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "tune needs to know what to try: --try KEY VALUE VALUE"),
        (["--try", "optimisation.lr"], "--try optimisation.lr has no values"),
        (["--try", "optimisation.lr", "0.1"], "0.1 is one value: give several, or a range"),
        (["--try", "optimisation.lr", "0.3..0.1"], "is no range: give a lower and a higher number"),
        (["--try", "optimisation.lr", "log:0..0.1"], "is no range"),
        (["--try", "optimisation.lr", "0.1", "1", "--try", "optimisation.lr", "2", "3"], "is given twice"),
        (["--try", "optimisation.lrr", "0.1", "0.2"], "did you mean"),
        (["--try", "optimisation.lr", "0.1", "0.2", "--trials", "0"], "--trials must be at least 1, not 0"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(words, said, tmp_path, capsys) -> None:
    assert cli.main(["tune", "digits/pgd-at", *QUICK, *words, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert said in err.splitlines()[-1]
    assert not list(tmp_path.glob("out/*/metrics.csv"))


def test_the_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    tuning(tmp_path).run(1, report=Silent)
    for changes in ({"seed": 1}, {"search": "random"}, {"space": SPACE[:1]}, {"overrides": (*QUICK, "--seed", "1")}):
        with pytest.raises(BadInput, match="holds a search of another experiment, or in another way"):
            tuning(tmp_path, **changes).run(2, report=Silent)
    (tmp_path / "trials.json").write_text("{")
    with pytest.raises(BadInput, match=r"trials\.json is damaged, or of no search"):
        tuning(tmp_path).run(2, report=Silent)


def test_without_optuna_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *rest: object, **named: object) -> object:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(BadInput, match=r"needs Optuna, which is not installed: pip install 'sparring\[tune\]'"):
        tuning(tmp_path).run(1, report=Silent)
