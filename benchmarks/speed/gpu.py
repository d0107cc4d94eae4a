"""All that is to be measured on a GPU, in the order of importance, in calls of at most nine minutes: see `../gpu.sh`.

Each stage writes one small JSON file when it is done, and a stage whose file is there is not repeated, so that calling again
goes on. A stage that would probably not end in time is left for the next call.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

import sparring
from benchmarks.harness import timing
from benchmarks.harness.methods import METHODS
from benchmarks.harness.ours import Way
from benchmarks.harness.record import write
from benchmarks.harness.scene import Scene
from benchmarks.opponents.pairs import PAIRS
from benchmarks.speed import captured, ceilings, cost, passes, profiled, race
from sparring.configuration import to_yaml
from sparring.environment import environment
from sparring.errors import BadInput
from sparring.training import Runtime
from sparring.training.progress import Silent

BUDGET = 9 * 60.0  # seconds a call
EPOCHS = 110  # of a published run
BATCHES = (128, 512, 1024)
ALL_LEVELS = ("graph", "eager", "compile+graph", "compile")
MAIN = ("mep", "pgd-10", "fgsm-rs", "sdi", "las")  # whose every level is timed; the others at the quickest two
RUNS = ("fgsm-mep", "pgd-at", "fgsm-sdi", "las-at", "fgsm-rs")  # whose epochs are timed on real images
REFERENCE = {"runtime.precision": "32", "runtime.level": "eager"}
QUICK = {"runtime.precision": "bf16-mixed"}


@dataclass(frozen=True)
class Stage:
    """One measurement: its file's name, what it will probably take in seconds, and how it is made."""

    name: str
    seconds: float
    work: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Size:
    """How large everything is: as published, or for a dry run on a CPU."""

    width: int | None = None
    batches: tuple[int, ...] = BATCHES
    rounds: int = 7
    shrink: int = 1  # divides the sizes of the ceilings' arrays
    images: int | None = None  # of the real runs; None is all
    tested: int = 1000
    epochs: int | None = None  # of whole runs; None is the recipe's
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] | None = None  # None is all


DRY = Size(4, (8,), 1, 64, 192, 16, 1, (0,), ("standard", "mep", "las"))


def stages(data: Path, device: str, size: Size) -> Iterator[Stage]:
    """Yield everything, in order."""
    scene = Scene(width=size.width, batch=size.batches[0], accelerator=device)
    yield Stage("ceilings", 20, lambda: {"ceilings": ceilings.measure(torch.device(device), size.rounds, size.shrink)})
    for batch in size.batches:
        for level in _levels(device):
            yield Stage(f"passes-{batch}-{level}", 90 if "compile" in level else 20, _passes(scene, batch, level, size))
    yield from _of_methods(scene, device, size)
    if device == "cuda":
        for level in ("eager", "graph", "compile+graph"):
            yield Stage(f"profile-mep-{level}", 120, _profile(scene, level))
        yield Stage("step-wrn-34-10-pgd-10-graph", 60, _wide("pgd-10", size))
        yield Stage("step-wrn-34-10-mep-graph", 60, _wide("mep", size))
    yield from _runs(data, device, size)


def _levels(device: str) -> tuple[str, ...]:
    return ALL_LEVELS if device == "cuda" else ("eager",)


def _of_methods(scene: Scene, device: str, size: Size) -> Iterator[Stage]:
    """Yield the stages on noise: captured steps against live ones, each step's time, and the usual research step's."""
    names, levels = size.methods or tuple(dict.fromkeys((*MAIN, *METHODS))), _levels(device)
    for name in names:
        yield Stage(f"captured-{name}", 15, _captured(name, device, size))
    for name in names:
        for level in levels if name in MAIN else levels[:2]:
            yield Stage(f"step-{name}-{level}", 120 if "compile" in level else 25, _step(scene, name, level, size))
        if METHODS[name].make().traits().shrinks:
            # Beside the levels, at which all images stay on a GPU.
            yield Stage(f"step-{name}-compact", 25, _step(scene, name, "eager", size, compact=True))
    for name in size.methods or PAIRS:
        yield Stage(f"race-{name}", 60, _race(scene, name, size))


def _runs(data: Path, device: str, size: Size) -> Iterator[Stage]:
    """Yield the stages on real images."""
    on_gpu = device == "cuda"
    for name in RUNS if on_gpu else RUNS[:1]:
        yield Stage(f"epochs-{name}", 60, _epochs(data, device, name, size))
    for seed in size.seeds:
        for kind, settings in (("quick", QUICK), ("fp32-eager", REFERENCE)):
            work = _whole(data, device, "fgsm-mep-fast", seed, settings, size)
            yield Stage(f"run-fgsm-mep-fast-{kind}-seed{seed}", 300, work)
    for name in _own_recipes() if on_gpu else ():
        yield Stage(
            f"run-{name}-seed0", 530 if name.endswith("-best") else 200, _whole(data, device, name, 0, {}, size)
        )


def _passes(scene: Scene, batch: int, level: str, size: Size) -> Callable[[], dict[str, Any]]:
    def work() -> dict[str, Any]:
        found = passes.measure(replace(scene, batch=batch), level, _precision(scene), size.rounds)  # type: ignore[arg-type]
        return {"passes": [asdict(one) | {"tflops": one.tflops} for one in found]}

    return work


def _captured(name: str, device: str, size: Size) -> Callable[[], dict[str, Any]]:
    small = Scene(width=size.width or 16, batch=min(32, size.batches[0]), accelerator=device)
    return lambda: {"comparison": asdict(captured.compare(name, small))}


def _step(scene: Scene, name: str, level: str, size: Size, compact: bool | None = None) -> Callable[[], dict[str, Any]]:
    def work() -> dict[str, Any]:
        found = cost.measure(name, scene, size.rounds, Way(_precision(scene), True, level, compact=compact))
        return {"step": asdict(found), "seconds_of_110_epochs": EPOCHS * 50_000 / scene.batch * median(found.seconds)}

    return work


def _wide(name: str, size: Size) -> Callable[[], dict[str, Any]]:
    return _step(Scene("wideresnet-34-10", batch=BATCHES[0], accelerator="cuda"), name, "graph", size)


def _race(scene: Scene, name: str, size: Size) -> Callable[[], dict[str, Any]]:
    variants = ("bf16-graph",) if scene.accelerator == "cuda" else ("channels-last",)
    return lambda: {"race": asdict(race.race(name, scene, size.rounds, variants))}


def _profile(scene: Scene, level: str) -> Callable[[], dict[str, Any]]:
    return lambda: {"kernels": profiled.measure("mep", scene, Way(_precision(scene), True, level))}


def _precision(scene: Scene) -> Any:
    return "bf16-mixed" if scene.accelerator == "cuda" else 32


def _experiment(data: Path, device: str, name: str, seed: int, settings: dict[str, str], size: Size) -> Any:
    words = [f"--{key}={value}" for key, value in settings.items()]
    words += [f"--data.path={data}", f"--runtime.accelerator={device}", f"--seed={seed}"]
    if size.images:
        words += [f"--data.limit={size.images}", "--data.validation=16", f"--model.width={size.width}"]
        words += ["--optimisation.batch_size=32"]
    return sparring.recipe(f"cifar10/{name}", words)


def _epochs(data: Path, device: str, name: str, size: Size) -> Callable[[], dict[str, Any]]:
    """Return some epochs of a published recipe, and from their median what all of them would take."""

    def work() -> dict[str, Any]:
        experiment = _experiment(data, device, name, 0, QUICK if device == "cuda" else {}, size)
        shortened = replace(experiment, optimisation=replace(experiment.optimisation, epochs=size.epochs or 5))
        with tempfile.TemporaryDirectory() as folder:
            run, seconds = _trained(shortened, folder)
            rows = run.metrics()
        typical = median(row["train_seconds"] for row in rows[1:] or rows)
        return {
            "recipe": f"cifar10/{name}",
            "seconds": seconds,
            "train_seconds": [row["train_seconds"] for row in rows],
            "validation_seconds": [row["validation_seconds"] for row in rows],
            "seconds_of_110_epochs": EPOCHS * typical,
        }

    return work


def _whole(
    data: Path, device: str, name: str, seed: int, settings: dict[str, str], size: Size
) -> Callable[[], dict[str, Any]]:
    """Return a whole run of a recipe of ours, and how robust its network is."""

    def work() -> dict[str, Any]:
        experiment = _experiment(data, device, name, seed, settings if device == "cuda" else {}, size)
        if size.epochs:
            experiment = replace(experiment, optimisation=replace(experiment.optimisation, epochs=size.epochs))
        with tempfile.TemporaryDirectory() as folder:
            run, seconds = _trained(experiment, folder)
            model, rows = sparring.load(run.folder).to(device), run.metrics()
        tested = sparring.data.load(experiment.data).test
        tested = tested.subset(torch.arange(min(size.tested, len(tested))))
        attacks = ["clean", "pgd-50", "aa"] if device == "cuda" else ["clean", "pgd-20"]
        evaluation = sparring.evaluate(model, tested, experiment.threat, attacks, doctor=False)
        return {
            "recipe": f"cifar10/{name}",
            "seed": seed,
            "config": to_yaml(experiment).replace(str(data), "DATA").splitlines(),
            "seconds": seconds,
            "train_seconds": sum(row["train_seconds"] for row in rows),
            "tested": len(tested),
            "accuracy": {attack: evaluation.accuracy(attack) for attack in attacks},
        }

    return work


def _trained(experiment: Any, folder: str) -> tuple[sparring.Run, float]:
    """Return a run, and its wall-clock seconds, warm-up included."""
    began = time.perf_counter()
    run = sparring.train(experiment, folder, report=Silent())
    return run, time.perf_counter() - began


def _own_recipes() -> list[str]:
    """Return those whose names end in -fast and -best: the short ones first."""
    names = [name.removeprefix("cifar10/") for name in sparring.recipes.names() if name.startswith("cifar10/")]
    return [name for ending in ("-fast", "-best") for name in names if name.endswith(ending)]


def file_of(stage: Stage, out: Path) -> Path:
    """Return where it is written; a name of letters, digits, dots and dashes."""
    return out / (re.sub(r"[^\w.]+", "-", stage.name).strip("-") + ".json")


def run(all_stages: Sequence[Stage], out: Path, deadline: float) -> int:
    """Take the stages that are not done, as long as there is time; how many are left."""
    left = 0
    for stage in all_stages:
        file = file_of(stage, out)
        if file.exists():
            continue
        if left or time.monotonic() + stage.seconds > deadline:
            left += 1
            continue
        timing.say(f"{stage.name} ...")
        began = time.monotonic()
        try:
            found = stage.work()
        except (RuntimeError, BadInput) as error:  # of one method or level: the others are worth having all the same
            found = {"failed": f"{type(error).__name__}: {error}"}
            left += "CUDA error" in str(error)  # but not from a process whose device no longer answers
        content = {"stage": stage.name, "environment": environment(), **found}
        write(file, content)
        timing.say(f"{stage.name}: {time.monotonic() - began:.0f} s{'  FAILED' if 'failed' in found else ''}")
    return left


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 when all is measured, 3 while stages are left for another call, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of CIFAR-10's parquet files")
    add("--out", type=Path, default=Path("benchmarks/results/gpu"), help="where the files go (default: %(default)s)")
    add("--budget", type=float, default=BUDGET, help="seconds of this call (default: %(default)s)")
    add("--only", help="stages whose names begin so")
    add("--dry", action="store_true", help="everything very small, on the CPU: whether it runs")
    options = parser.parse_args(words)
    try:
        device = Runtime("cpu" if options.dry else "cuda").fabric().device.type
        if not options.data.is_dir():
            raise BadInput(f"There is no folder {options.data}: give --data the one with CIFAR-10's parquet files.")
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = [
        stage
        for stage in stages(options.data, device, DRY if options.dry else Size())
        if stage.name.startswith(options.only or "")
    ]
    left = run(chosen, options.out, time.monotonic() + options.budget)
    timing.say(f"{left} of {len(chosen)} stages are left: call again." if left else "All is measured.")
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
