"""Which of a network's records is shown where there is room for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparring.evaluation.records import whole_records
from sparring.threat import Threat
from sparring.training import Run


def shown_record(run: Run, threat: Threat, weights: str) -> tuple[Mapping[str, Any] | None, list[str]]:
    """Return the record of these weights (their fingerprint) on the run's images and this threat, and what others there are.

    One with AutoAttack goes before one without, and then that of most images. None where there is none; raises BadInput for
    a record that was changed by hand.
    """
    asked = {"norm": threat.norm, "eps": str(threat.eps)}, weights
    data = run.data()
    records = list(whole_records(run.evaluations)) if run.evaluations.is_dir() else []
    fitting = [
        held
        for held in records
        if (held["threat"], held["subject"]["fingerprint"]) == asked and _is_own(held["data"], data)
    ]
    notes = []
    if len(fitting) < len(records):
        notes.append(
            f"{len(records) - len(fitting)} of {len(records)} records are of other weights, such as the last epoch's, of "
            "other images or another threat, and are left out here."
        )
    if len(fitting) > 1:
        notes.append(
            f"Of {len(fitting)} records of this network one is shown: with AutoAttack if there is one, of most images."
        )
    return max(fitting, key=_rank, default=None), notes


def _is_own(asked: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Return whether a record is of the images that came with a run's training images; early ones say only their name."""
    trained, tested_with = data.get("train_fingerprint"), asked.get("train_fingerprint")
    return asked["name"] == data["name"] and (trained == tested_with or None in (trained, tested_with))


def _rank(record: Mapping[str, Any]) -> tuple[bool, int, float]:
    return any(entry["attack"] == "aa" for entry in record["attacks"]), record["n"], -record["worst"]
