"""Training: the step, the loop around it, its runtime, and the folder that a run leaves behind."""

from sparring.training.diagnostics import Diagnostics
from sparring.training.run import Run
from sparring.training.runtime import Runtime
from sparring.training.selection import Selection
from sparring.training.session import Session
from sparring.training.step import Step, train_step
from sparring.training.trainer import Diverged, Interrupted, Trainer

__all__ = [
    "Diagnostics",
    "Diverged",
    "Interrupted",
    "Run",
    "Runtime",
    "Selection",
    "Session",
    "Step",
    "Trainer",
    "train_step",
]
