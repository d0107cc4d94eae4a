"""All measurements by name; a name is also that of the file which holds what was found."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.gpu import runs
from benchmarks.gpu.setting import Setting
from benchmarks.harness.methods import METHODS
from benchmarks.harness.ours import Way
from benchmarks.harness.scene import Scene
from benchmarks.opponents.pairs import PAIRS
from benchmarks.speed import captured, ceilings, cost, profiled, race
from sparring.training.acceleration.plan import LevelName

Found = dict[str, Any]
EPOCHS, IMAGES = 110, 50_000  # of a published run
LEVELS: tuple[LevelName, ...] = ("graph", "eager", "compile+graph")
LARGE = 512  # the other batch
WIDE = "wideresnet-34-10"


def stages(setting: Setting) -> dict[str, Callable[[], Found]]:
    """Return what makes each measurement."""
    scene = setting.scene
    found: dict[str, Callable[[], Found]] = {
        "ceilings": partial(_ceilings, setting),
        "data": partial(runs.decoded, setting),
        "autoattack-10000": partial(runs.attacked_in_full, setting),
        "pyautoattack-500": partial(runs.beside_pyautoattack, setting),
    }
    for name in METHODS:
        found[f"captured-{name}"] = partial(_captured, name, setting)
        for level in LEVELS:
            found[f"step-{name}-{level}"] = partial(_step, name, scene, setting, setting.way(level))
        found[f"step-{name}-fp32"] = partial(_step, name, scene, setting, replace(setting.way("graph"), precision=32))
        found[f"step-{name}-compact"] = partial(_step, name, scene, setting, setting.way("eager", compact=True))
        found[f"profile-{name}"] = partial(_profile, name, setting)
        found[f"compiled-{name}"] = partial(_compiled, name, setting)
        large = replace(scene, batch=LARGE if setting.size.width is None else 2 * scene.batch)
        found[f"step-{name}-batch-512"] = partial(_step, name, large, setting, setting.way("graph"))
        wide = replace(scene, model=WIDE if setting.size.width is None else scene.model)
        found[f"step-{name}-{WIDE}"] = partial(_step, name, wide, setting, setting.way("graph"))
    for name in PAIRS:
        found[f"race-{name}"] = partial(_race, name, setting)
    for name in runs.RUNS:
        found[name] = partial(runs.finished, name, setting)
    return {re.sub(r"[^\w.]+", "-", name).strip("-"): work for name, work in found.items()}


def _ceilings(setting: Setting) -> Found:
    return {"ceilings": ceilings.measure(torch.device(setting.device), setting.size.rounds, setting.size.shrink)}


def _captured(name: str, setting: Setting) -> Found:
    """Return the comparison, as a failure where captured steps end elsewhere than live ones."""
    small = replace(setting.scene, width=setting.size.width or 16, batch=min(32, setting.size.batch))
    comparison = captured.compare(name, small, setting.size.steps)
    found: Found = {"comparison": asdict(comparison)}
    if not comparison.agrees:
        found["failed"] = (
            f"Captured steps end {comparison.captured:.0e} from live ones, those {comparison.live:.0e} apart."
            if math.isfinite(comparison.captured + comparison.live)
            else "A network is not finite after these steps, live or captured: nothing is compared."
        )
    return found


def _step(name: str, scene: Scene, setting: Setting, way: Way) -> Found:
    step = cost.measure(name, scene, setting.size.rounds, way)
    return {
        "model": scene.model,
        "batch": scene.batch,
        "kind": "float32" if way.precision == 32 else "bfloat16",
        "step": asdict(step),
        "seconds_of_110_epochs": EPOCHS * IMAGES / scene.batch * median(step.seconds),
    }


def _compiled(name: str, setting: Setting) -> Found:
    """Return the seconds until steps of a compiled network run; what was compiled is then at hand for other processes."""
    began = time.perf_counter()
    cost.prepared(name, setting.scene, setting.way("compile+graph")).warm_up()
    return {"seconds": time.perf_counter() - began}


def _profile(name: str, setting: Setting) -> Found:
    return {"kernels": profiled.measure(name, setting.scene, setting.way("graph"))}


def _race(name: str, setting: Setting) -> Found:
    variant = "bf16-graph" if setting.device == "cuda" else "channels-last"
    return {"race": asdict(race.race(name, setting.scene, setting.size.rounds, (variant,)))}
