"""What a step of a run costs in forward passes, counted once and kept in its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean

from sparring.experiment import Experiment
from sparring.files import replacing
from sparring.training import Run
from sparring.training.cost import step_cost
from sparring.training.progress import Silent

_LEAST = 2  # steps; NuAT's are of two kinds in turn


def passes(experiment: Experiment, folder: Path) -> float:
    """Return the operations of a training step in forward passes of its batch, on average over the run's first steps.

    As many steps are counted as LAS's policy or FGSM-SDI's generator takes from one update to the next. They are taken anew,
    uncompiled, and kept nowhere but in cost.json.
    """
    file = folder / "cost.json"
    if file.is_file():
        return float(json.loads(file.read_text(encoding="utf-8"))["passes"])
    eager = replace(experiment, runtime=replace(experiment.runtime, level="eager", compact=False))
    # Its folder is only for `fit`, which nobody calls: nothing is written.
    session = eager.trainer(Run(folder), Silent()).session
    session.begin_epoch()
    count = max(_LEAST, getattr(session.method, "interval", 1))
    draws = islice(cycle(list(session.draws())), count)
    found = fmean(step_cost(session.method, session.learner, session.data.show(draw)) for draw in draws)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps({"passes": found}) + "\n", encoding="utf-8")
    return found
