"""Evaluation: how robust a network is, and a record of how that was found out."""

from sparring.evaluation.course import Stage
from sparring.evaluation.fit import check_fit
from sparring.evaluation.network import Precision, pays_16_bits, roomy
from sparring.evaluation.record import Subject, record, save_examples, write
from sparring.evaluation.robustness import CLEAN, Evaluation, Examination, Outcome

__all__ = [
    "CLEAN",
    "Evaluation",
    "Examination",
    "Outcome",
    "Precision",
    "Stage",
    "Subject",
    "check_fit",
    "pays_16_bits",
    "record",
    "roomy",
    "save_examples",
    "write",
]
