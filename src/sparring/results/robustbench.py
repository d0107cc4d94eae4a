"""RobustBench's call and file format: benchmark(model, ...) -> (clean, robust), and model_info/<data>/<threat>/<id>.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparring.data import Splits
from sparring.errors import BadInput
from sparring.evaluation import CLEAN, Outcomes
from sparring.files import check_writable, read_text, replacing
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


def entry_file(dataset: str, norm: str, name: str, folder: Path) -> Path:
    """Return folder/<dataset>/<norm>/<name>.json; raises BadInput where an entry cannot be written there."""
    path = folder / dataset / norm / f"{name}.json"
    check_writable(path)
    _held(path)
    return path


def write_entry(known: dict[str, Any], path: Path) -> None:
    """Write the entry to a file; what else the file says of the model is kept."""
    content = dict.fromkeys(_FIELDS) | _held(path) | known
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _held(path: Path) -> dict[str, Any]:
    """Return what a file says already; raises BadInput where that is no entry."""
    if not path.exists():
        return {}
    try:
        held = json.loads(read_text(path))
    except ValueError:
        held = None
    if not isinstance(held, dict):
        raise BadInput(f"{path} is no entry of RobustBench's, which is a JSON object: move it away.")
    return held
