"""Which of a network's records is shown where there is room for one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparring.evaluation.records import whole_records
from sparring.threat import Threat


def shown_record(folder: Path, threat: Threat, data: str, weights: str) -> tuple[Mapping[str, Any] | None, list[str]]:
    """Return the record of these weights (their fingerprint) on this data set and threat, and what is to be said of others.

    One with AutoAttack goes before one without, and then that of most images. None where there is none; raises BadInput for
    a record that was changed by hand.
    """
    asked = {"norm": threat.norm, "eps": str(threat.eps)}, data, weights
    records = list(whole_records(folder)) if folder.is_dir() else []
    fitting = [
        held for held in records if (held["threat"], held["data"]["name"], held["subject"]["fingerprint"]) == asked
    ]
    notes = []
    if len(fitting) < len(records):
        notes.append(
            f"{len(records) - len(fitting)} of {len(records)} records are of other weights, such as the last epoch's, of "
            "another data set or another threat, and are left out here."
        )
    if len(fitting) > 1:
        notes.append(
            f"Of {len(fitting)} records of this network one is shown: with AutoAttack if there is one, of most images."
        )
    return max(fitting, key=_rank, default=None), notes


def _rank(record: Mapping[str, Any]) -> tuple[bool, int, float]:
    return any(entry["attack"] == "aa" for entry in record["attacks"]), record["n"], -record["worst"]
