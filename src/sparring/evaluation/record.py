"""The record of an evaluation: every figure with what is needed to obtain it again, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparring.data import Splits
from sparring.environment import environment
from sparring.evaluation.robustness import Evaluation, Examination
from sparring.files import replacing


@dataclass(frozen=True)
class Subject:
    """What was evaluated."""

    model: str  # the name of the network
    weights: str  # the file, as the user gave it
    checkpoint: str  # best or last; empty for a file


def record(subject: Subject, splits: Splits, examination: Examination, evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as plain values: accuracies are fractions, eps and alpha are written as given."""
    dtype = next(examination.model.parameters()).dtype
    return {
        "subject": asdict(subject),
        "data": {"name": splits.name, "split": "test", "fingerprint": splits.fingerprint},
        "threat": {"norm": examination.threat.norm, "eps": str(examination.threat.eps)},
        "n": len(examination.images),
        "seed": examination.seed,
        "dtype": str(dtype).removeprefix("torch."),
        "batch_size": examination.batch_size,
        "device": str(examination.device),
        "environment": environment(),
        "attacks": [
            {
                "attack": outcome.attack,
                "accuracy": outcome.accuracy,
                "n": len(outcome.correct),
                **outcome.settings,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in evaluation.outcomes
        ],
        "worst": evaluation.worst,
    }


def write(content: dict[str, Any], path: Path) -> None:
    """Replace the file by the record."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
