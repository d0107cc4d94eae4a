"""RobustBench's call and file format: benchmark(model, ...) -> (clean, robust), and model_info/<data>/<threat>/<id>.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparring.data import Splits
from sparring.errors import BadInput
from sparring.evaluation import CLEAN, Outcomes
from sparring.files import replacing
from sparring.threat import Threat

_FIELDS = (  # in the order of RobustBench's files
    *("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps"),
    *("clean_acc", "reported", "autoattack_acc", "footnote", "unreliable"),
)


def entry(evaluation: Outcomes, splits: Splits, threat: Threat) -> dict[str, Any]:
    """Return what an evaluation by clean and aa says of a model, in RobustBench's words: percentages with two decimals.

    Raises BadInput if clean or aa is missing.
    """
    missing = {CLEAN, "aa"} - {outcome.attack for outcome in evaluation.outcomes}
    if missing:
        raise BadInput(f"A RobustBench entry needs the attacks clean and aa: {', '.join(sorted(missing))} was not run.")
    return {
        "dataset": splits.name,
        "eps": str(threat.eps),
        "clean_acc": f"{100 * evaluation.accuracy(CLEAN):.2f}",
        "autoattack_acc": f"{100 * evaluation.accuracy('aa'):.2f}",
    }


def write_entry(known: dict[str, Any], name: str, norm: str, folder: Path) -> Path:
    """Write the entry to folder/<dataset>/<norm>/<name>.json; what else the file says of the model is kept."""
    path = folder / str(known["dataset"]) / norm / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content = dict.fromkeys(_FIELDS) | before | known
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path
