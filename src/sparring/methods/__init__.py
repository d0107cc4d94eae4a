"""Training methods. A new one is a class in a file here, a line below, a recipe, and a row in the contract suite."""

from sparring.methods.awp import AWP
from sparring.methods.base import Loss, Method, Perturbation, Task, Wrapper, state
from sparring.methods.empirical import AdversarialTraining, Standard
from sparring.methods.las import LAS
from sparring.methods.policy import Actions, Strategist
from sparring.methods.prior import BP, EP, MEP
from sparring.methods.reward import Reward
from sparring.methods.sdi import SDI
from sparring.methods.trades import TRADES

__all__ = [
    "AWP",
    "BP",
    "EP",
    "LAS",
    "MEP",
    "SDI",
    "TRADES",
    "Actions",
    "AdversarialTraining",
    "Loss",
    "Method",
    "Perturbation",
    "Reward",
    "Standard",
    "Strategist",
    "Task",
    "Wrapper",
    "state",
]
