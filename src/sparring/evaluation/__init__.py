"""Evaluation: how robust a network is, and a record of how that was found out."""

from sparring.evaluation.record import Subject, record, write
from sparring.evaluation.robustness import CLEAN, Evaluation, Examination, Outcome

__all__ = ["CLEAN", "Evaluation", "Examination", "Outcome", "Subject", "record", "write"]
