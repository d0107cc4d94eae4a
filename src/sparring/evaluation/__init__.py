"""Evaluation: how robust a network is, and a record of how that was found out."""

from typing import Any

from sparring.deprecation import renamed_names
from sparring.evaluation.evaluate import Evaluation, evaluate
from sparring.evaluation.evaluator import Evaluator
from sparring.evaluation.fit import check_fit
from sparring.evaluation.naming import Attacks, with_names
from sparring.evaluation.network import Precision, auto_batch_size, pays_16_bits
from sparring.evaluation.outcome import CLEAN, Outcome, Outcomes, Stage
from sparring.evaluation.record import ModelSource, name_of, record, save_examples, write_record

__all__ = [
    "CLEAN",
    "Attacks",
    "Evaluation",
    "Evaluator",
    "ModelSource",
    "Outcome",
    "Outcomes",
    "Precision",
    "Stage",
    "auto_batch_size",
    "check_fit",
    "evaluate",
    "name_of",
    "pays_16_bits",
    "record",
    "save_examples",
    "with_names",
    "write_record",
]

_RENAMED = {"Examination": "Evaluator", "Subject": "ModelSource", "roomy": "auto_batch_size", "write": "write_record"}
_present = renamed_names(__name__, _RENAMED)


def __getattr__(name: str) -> Any:
    """Return what a name of version 0.1 stands for, with a warning."""
    return globals()[_present(name)]
