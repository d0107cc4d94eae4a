"""Adversarial training of image classifiers, and honest measurement of their robustness.

import sparring
experiment = sparring.recipe("digits/fgsm-mep")
run = sparring.train(experiment, "runs/mep")
model = sparring.load("runs/mep")
sparring.evaluate(model, experiment.data, experiment.threat, ["clean", "pgd-20"]).worst
"""

from sparring import attacks, methods, models
from sparring.api import benchmark, load, recipe
from sparring.data import Data
from sparring.environment import installed_version
from sparring.errors import BadInput
from sparring.evaluation import Evaluation, evaluate
from sparring.experiment import Experiment, train
from sparring.threat import Budget, Threat
from sparring.training import Run

__version__ = installed_version()

__all__ = [
    "BadInput",
    "Budget",
    "Data",
    "Evaluation",
    "Experiment",
    "Run",
    "Threat",
    "attacks",
    "benchmark",
    "evaluate",
    "load",
    "methods",
    "models",
    "recipe",
    "train",
]
