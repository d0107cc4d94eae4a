"""What is owed of a GPU: every measurement runs on a CPU, and the script takes them in time and brings them home."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import runs, table
from benchmarks.gpu.runs import RUNS
from benchmarks.gpu.setting import DRY, Setting, Size
from benchmarks.gpu.stages import captured, ceilings, cost, stages
from benchmarks.harness.methods import METHODS
from benchmarks.harness.ours import Way
from benchmarks.harness.scene import Scene
from benchmarks.opponents.match import Unequal
from benchmarks.speed.cost import Cost
from sparring.training import Interrupted

ROOT = Path(__file__).parents[1]
RUN = "run-fgsm-mep-fast-seed0"


@pytest.fixture(scope="session")
def few(shared: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of some real CIFAR-10 images."""
    folder = tmp_path_factory.mktemp("cifar10")
    for name, count in (("train", 400), ("test", 32)):
        pq.write_table(
            pq.read_table(Path(shared("cifar10")) / f"{name}.parquet").slice(0, count), folder / f"{name}.parquet"
        )
    return folder


@pytest.fixture
def setting(few: Path, tmp_path: Path) -> Setting:
    (tmp_path / "records").mkdir()
    return Setting("cpu", few, tmp_path, DRY)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in (folder / "records").glob("*.json")}


def test_every_kind_of_measurement_runs_and_none_is_repeated(few: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    names = ["ceilings", "data", "captured-sdi", "step-mep-graph", "step-sat-10-compact", "step-mep-batch-512"]
    names += ["compiled-mep", "race-mep", "profile-mep", RUN, "talk-fgsm-sdi", "autoattack-10000", "pyautoattack-500"]
    words = [*names, "--data", str(few), "--folder", str(tmp_path), "--dry"]
    assert program.main(words) == 0
    found = records(tmp_path)
    assert set(found) == set(names)
    assert not [name for name, record in found.items() if "failed" in record]
    assert sum(found["data"]["counts"]["train"].values()) == 360
    assert found["captured-sdi"]["comparison"]["captured"] == 0
    assert found["step-mep-graph"]["step"]["units"] == pytest.approx(7, rel=0.05)
    assert found["step-mep-batch-512"]["seconds_of_110_epochs"] > 0
    assert found["race-mep"]["race"]["difference"] < 1e-9
    assert found["profile-mep"]["kernels"]["kernels_a_step"] > 100
    assert 0 <= found[RUN]["best_accuracy"]["pgd-10"] <= found[RUN]["best_accuracy"]["clean"] <= 1
    assert {"best_accuracy", "last_accuracy"} < set(found["talk-fgsm-sdi"])
    assert any(note.startswith("Level eager") for note in found[RUN]["notes"])
    assert all("JPEG" in record["images"] for name, record in found.items() if "accuracy" in str(record))
    assert set(found["pyautoattack-500"]["answers"]) == {"pyautoattack", "ours"}
    assert all(record["environment"]["torch"] for record in found.values())
    assert not [name for name, record in found.items() if str(few) in json.dumps(record)]
    assert table.main([str(tmp_path / "records")]) == 0
    shown = capfd.readouterr().out
    for text in ("captured", "A step, resnet18, batch 8, float32", "batch 16", "research ms", RUN, "clean "):
        assert text in shown
    monkeypatch.setattr(ceilings, "measure", None)  # from here on nothing may be measured
    monkeypatch.setattr(runs.sparring, "train", None)
    assert program.main(words) == 0
    assert capfd.readouterr().err == ""


def test_a_run_is_evaluated_where_it_was_trained_and_outlives_an_evaluation_that_fails(setting, monkeypatch) -> None:
    asked: list[dict[str, Any]] = []
    evaluate = runs.sparring.evaluate

    def failing(*arguments: Any, **settings: Any) -> Any:
        asked.append(settings)
        if len(asked) == 1:
            raise RuntimeError("out of memory")
        return evaluate(*arguments, **settings)

    monkeypatch.setattr(runs.sparring, "evaluate", failing)
    work = {RUN: stages(setting)[RUN]}
    assert program.take(work, setting) == 1
    file = setting.folder / "records" / f"{RUN}.json"
    assert json.loads(file.read_text())["failed"] == "RuntimeError: out of memory"
    weights = setting.folder / "runs" / RUN / "model.safetensors"
    trained = weights.stat().st_mtime_ns
    file.unlink()
    assert program.take(work, setting) == 0
    assert json.loads(file.read_text())["resumed"]
    assert weights.stat().st_mtime_ns == trained  # nothing was trained again
    assert [settings["device"] for settings in asked] == [setting.device] * 2
    on_gpu = Setting("cuda", setting.data, setting.folder, Size())
    assert runs._precision(on_gpu) == "search16"
    assert on_gpu.way("graph") == Way("bf16-mixed", channels_last=True, level="graph")


LENGTHS = {"run-fgsm-mep-seed0": 110, "run-las-at-seed0": 110, "run-pgd-at-fast-seed0": 15}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_writes_its_state_once_and_has_batches_of_one_size(name: str, few: Path, tmp_path: Path) -> None:
    experiment = runs._experiment(name, Setting("cpu", few, tmp_path, Size()))
    options = experiment.optimisation
    assert options.drop_last
    assert experiment.runtime.checkpoint_every >= options.epochs
    assert experiment.runtime.precision == (32 if "fp32" in name else "bf16-mixed")
    if name in LENGTHS or name.startswith("talk-"):
        assert options.epochs == LENGTHS.get(name, 30)
    assert options.schedule.momentum(5, 10) is None  # a step of an own kind each could not be captured


def test_images_are_decoded_once_for_all_runs(few: Path, tmp_path: Path, monkeypatch) -> None:
    """Beside the first measurements, in a process of its own; what it decoded lies on disk."""
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "images"))
    setting = Setting("cpu", few, tmp_path, Size())
    runs.decoded(setting)
    monkeypatch.setattr("sparring.data.sources.decode", None)
    for name in RUNS:
        assert len(runs.sparring.data.load(runs._experiment(name, setting).data).train) == 360


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: operation not permitted when stream is capturing"), Unequal("mep"), KeyError("x")],
)
def test_a_measurement_that_fails_says_so_and_stops_no_other(error: Exception, setting: Setting) -> None:
    def fails() -> dict[str, Any]:
        raise error

    assert program.take({"one": fails, "two": lambda: {"value": 1}}, setting) == 1
    found = records(setting.folder)
    assert found["one"]["failed"] == f"{type(error).__name__}: {error}"
    assert found["two"]["value"] == 1
    assert program.take({"one": fails}, setting) == 0  # not repeated while the record is there


def test_nothing_else_is_measured_in_a_process_whose_device_is_lost(setting: Setting, monkeypatch) -> None:
    """Whatever the error's text is: the device is asked."""

    def lost(*_: object, **__: object) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    def fails() -> dict[str, Any]:
        monkeypatch.setattr(program.torch, "ones", lost)
        raise ValueError("nan")

    assert program.take({"one": fails, "two": lambda: {"value": 1}}, setting) == 1
    assert set(records(setting.folder)) == {"one"}


def test_a_run_that_is_stopped_has_not_failed(few: Path, tmp_path: Path, monkeypatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Interrupted("Stopped in epoch 3.")

    monkeypatch.setattr(runs.sparring, "train", stopped)
    assert program.main([RUN, "--data", str(few), "--folder", str(tmp_path), "--dry"]) == 3
    assert records(tmp_path) == {}


def test_captured_steps_that_end_elsewhere_are_a_failure(setting: Setting, monkeypatch) -> None:
    monkeypatch.setattr(captured, "compare", lambda name, *_: captured.Comparison(name, 0.0, 1e-3, 1, ""))
    assert program.take({"captured-mep": stages(setting)["captured-mep"]}, setting) == 1
    assert (
        records(setting.folder)["captured-mep"]["failed"]
        == "Captured steps end 1e-03 from live ones, those 0e+00 apart."
    )


def test_a_record_says_what_it_was_measured_with(monkeypatch) -> None:
    """Where there is no checkout and no git, the commit travels along; a GPU's driver and libraries are named."""
    monkeypatch.setattr(program, "environment", lambda: {"commit": "", "gpu": "a GPU"})
    monkeypatch.setenv("COMMIT", "0123456789ab")
    assert program.where()["commit"] == "0123456789ab"
    done = subprocess.CompletedProcess([], 0, stdout="580.1\n")
    monkeypatch.setattr(program.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    found = program.where()
    assert found["driver"] == "580.1"
    assert found["cudnn"] == 91900
    assert {"cuda", "gpu"} < set(found)
    monkeypatch.setattr(program, "environment", lambda: {"commit": "ba9876543210"})
    assert program.where()["commit"] == "ba9876543210"


def test_images_leave_where_a_measurement_says_so(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(name: str, scene: Scene, rounds: int, way: Way) -> Cost:
        asked.append((way.level, way.compact, scene.batch, scene.model))
        return Cost(name, way.level, 1.0, 1.0, 1.0, 1, 0, 0, "", [1.0])

    monkeypatch.setattr(cost, "measure", measure)
    known = stages(Setting("cuda", few, tmp_path, Size()))
    for name in ("step-las-graph", "step-las-compact", "step-las-batch-512", "step-mep-wideresnet-34-10"):
        known[name]()
    small = (128, "resnet18")
    assert asked[:2] == [("graph", None, *small), ("eager", True, *small)]
    assert asked[2:] == [("graph", None, 512, "resnet18"), ("graph", None, 128, "wideresnet-34-10")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ceilings", "--data", "nowhere", "--dry"], "There is no folder nowhere"),
        (["race-meep", "--data", ".", "--dry"], "did you mean 'race-mep'?"),
        pytest.param(
            ["ceilings", "--data", "."],
            "PyTorch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(words, sentence, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([*words, "--folder", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# The script --------------------------------------------------------------------------------------------------------------

STAND_IN = """#!/usr/bin/env bash
[ "${2:-}" = benchmarks.gpu ] || exit 0
shift 2
for name; do
    [ "$name" != --data ] || exit 0
    echo "$name" >>"$TAKEN"
    case " $FAILS " in *" $name "*) exit 1 ;; esac
    case " $HANGS " in *" $name "*) exec sleep 60 ;; esac
    echo '{}' >"$WORK/records/$name.json"
done
"""


class Script:
    """`gpu.sh` with a stand-in for Python that notes what it is asked to measure, and fails or hangs where it is told to."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.archives, self._data = folder, folder / "out", data
        self._python, self._taken = folder / "python", folder / "taken"
        self._python.write_text(STAND_IN)
        self._python.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        places = {"PYTHON": self._python, "TAKEN": self._taken, "DATA": self._data}
        places |= {"WORK": self.folder / "work", "OUT": self.archives}
        return {"FAILS": "", "HANGS": "", "WHEELS": "none", "MEASURED": "none"} | {
            name: str(place) for name, place in places.items()
        }

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        self._taken.write_text("")
        everything = os.environ | self.environment | environment
        command = ["bash", "benchmarks/gpu.sh", *words]
        return subprocess.Popen(
            command, cwd=ROOT, env=everything, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, *words: str, **environment: str) -> int:
        process = self.start(*words, **environment)
        self.output = process.communicate(timeout=120)[0]
        return process.returncode

    @property
    def taken(self) -> list[str]:
        return self._taken.read_text().split()

    def archived(self, part: str) -> set[str]:
        assert [file.name for file in self.archives.iterdir()] == [f"{part}.tgz"]
        with tarfile.open(self.archives / f"{part}.tgz") as archive:
            return {Path(name).stem for name in archive.getnames() if name.endswith(".json")}


@pytest.fixture
def script(tmp_path: Path, few: Path) -> Script:
    return Script(tmp_path, few)


@pytest.mark.parametrize("part", ["first", "second", "third", "fourth"])
def test_all_that_a_part_asks_for_is_known_comes_home_in_one_file_and_is_not_repeated(
    part, script, few, tmp_path
) -> None:
    assert script.run(part) == 0, script.output
    taken = script.taken
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(stages(Setting("cuda", few, tmp_path, Size())))
    assert script.archived(part) == set(taken)
    assert script.run(part) == 0
    assert script.taken == []


def test_the_queue_is_in_the_order_of_worth_and_leaves_nothing_out(script: Script) -> None:
    assert script.run("first") == 0
    taken = script.taken
    comparisons = {name for name in taken if name.startswith("captured-")}
    assert len(comparisons) == len(METHODS)
    side_by_side = comparisons | {"data", "compiled-mep", "compiled-pgd-10"}
    assert set(taken[: len(side_by_side)]) == side_by_side
    order = ["ceilings", "step-mep-graph", "step-mep-eager", "step-mep-compile-graph", RUN, "race-mep", "race-sdi"]
    assert [name for name in taken if name in order] == order
    assert taken[-1] == "run-pgd-at-fast-seed0"
    for part in ("second", "third", "fourth"):
        assert script.run(part) == 0
        taken += script.taken
    assert set(RUNS) <= set(taken)
    graphs = {name for name in taken if name.startswith("step-") and name.endswith("-graph") and "compile" not in name}
    assert len(graphs) == len(METHODS)


def test_what_the_repository_has_is_not_measured_again(script: Script, tmp_path: Path) -> None:
    measured = tmp_path / "measured"
    measured.mkdir()
    (measured / f"{RUN}.json").write_text("{}")
    assert script.run("first", MEASURED=str(measured)) == 0
    assert RUN not in script.taken
    assert RUN in script.archived("first")


def test_when_a_method_is_wrong_the_first_call_ends_and_another_goes_on(script: Script) -> None:
    assert script.run("first", FAILS="captured-mep") == 1
    assert "mend it first" in script.output
    assert "ceilings" not in script.taken
    assert "captured-pgd-10" in script.archived("first")
    (script.folder / "work/records/captured-mep.json").write_text("{}")
    for name in ("captured-awp-trades-10", "captured-standard", "captured-free-8", "captured-cat-7"):
        assert name not in script.archived("first")
    assert script.run("first") == 0
    assert script.taken.count("captured-standard") == script.taken.count(RUN) == 1
    assert "captured-pgd-10" not in script.taken


def test_a_failure_later_on_stops_nothing_else(script: Script) -> None:
    assert script.run("second", FAILS="talk-fgsm-ga") == 1
    asked_for = {name for name in RUNS if name.startswith("talk-")}
    assert {name for name in script.archived("second") if name.startswith("talk-")} == asked_for - {"talk-fgsm-ga"}


def test_what_does_not_fit_is_left_for_another_call(script: Script) -> None:
    """What has half of its seconds may begin: 200 are enough for single races, not for whole runs."""
    assert script.run("first", BUDGET="60") == 3
    assert "left for another call: run-fgsm-mep-fast-seed0" in script.output
    assert {"race-mep", "profile-mep"} <= script.archived("first")
    assert not {RUN, "ceilings", "captured-mep"} & script.archived("first")
    assert script.run("first") == 0
    assert {RUN, "ceilings", "captured-mep"} <= script.archived("first")


def test_a_measurement_that_hangs_ends_with_the_call(script: Script) -> None:
    began = time.monotonic()
    assert script.run("first", BUDGET="21", HANGS="race-mep") == 3
    assert time.monotonic() - began < 40
    assert script.taken == ["race-mep"]
    assert "stopped before its end: one of race-mep" in script.output
    assert script.archived("first") == set()


def test_a_call_that_is_ended_brings_home_what_it_has(script: Script) -> None:
    process = script.start("second", HANGS="talk-fgsm-sdi")
    while "talk-fgsm-sdi" not in script.taken:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 3
    brought = {name for name in script.archived("second") if name.startswith("talk-")}
    assert brought == {"talk-fgsm-rs", "talk-fgsm-ckpt", "talk-fgsm-ga"}


def test_a_part_that_does_not_exist_is_refused(script: Script) -> None:
    assert script.run("fifth") == 2
    assert "benchmarks/gpu.sh first" in script.output
    assert not script.archives.exists()


def test_a_part_begins_only_where_there_are_images(script: Script) -> None:
    assert script.run("second", DATA="nowhere") == 2
    assert "There is no nowhere/train*.parquet" in script.output
    assert script.taken == []
    assert not script.archives.exists()


def test_the_dry_run_of_a_part_measures_by_the_real_interpreter(script: Script, few: Path) -> None:
    """A step and a run; the others have a record already, so that a slow machine has the time."""
    assert script.run("second") == 0, script.output
    for name in ("step-mep-batch-512", "talk-fgsm-rs"):
        (script.folder / f"work/records/{name}.json").unlink()
    assert script.run("second", "--dry", PYTHON=sys.executable, DATA=str(few)) == 0, script.output
    assert {"step-mep-batch-512", "talk-fgsm-rs"} <= script.archived("second")
    assert records(script.folder / "work")["step-mep-batch-512"]["step"]["units"] > 0
    assert records(script.folder / "work")["talk-fgsm-rs"]["last_accuracy"]
