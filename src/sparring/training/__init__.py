"""Training: the step, the loop around it, its runtime, and the folder that a run leaves behind."""

from sparring.training.run import Run
from sparring.training.runtime import Runtime
from sparring.training.step import train_step
from sparring.training.trainer import Interrupted, Selection, Trainer

__all__ = ["Interrupted", "Run", "Runtime", "Selection", "Trainer", "train_step"]
