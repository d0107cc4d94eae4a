"""Training methods. A new one is a class in a file here, a line below, a recipe, and a row in the contract suite."""

from typing import Any

from sparring.deprecation import renamed_names
from sparring.methods.awp import AWP
from sparring.methods.base import Loss, Method, Perturbation, Phase, Review, Task, Traits, state
from sparring.methods.cat import CAT
from sparring.methods.ckpt import CKPT
from sparring.methods.curriculum import DART, FAT, SAT
from sparring.methods.empirical import AdversarialTraining, Standard
from sparring.methods.free import Free
from sparring.methods.gradalign import GradAlign
from sparring.methods.guided import GAT, NuAT
from sparring.methods.las import LAS
from sparring.methods.lbgat import LBGAT
from sparring.methods.nfgsm import NFGSM
from sparring.methods.policy import Actions, PolicyNetwork
from sparring.methods.prior import BP, EP, MEP
from sparring.methods.reward import Reward
from sparring.methods.reweighted import GAIRAT, MART
from sparring.methods.sdi import SDI
from sparring.methods.trades import TRADES
from sparring.methods.wrapper import Wrapper

__all__ = [
    "AWP",
    "BP",
    "CAT",
    "CKPT",
    "DART",
    "EP",
    "FAT",
    "GAIRAT",
    "GAT",
    "LAS",
    "LBGAT",
    "MART",
    "MEP",
    "NFGSM",
    "SAT",
    "SDI",
    "TRADES",
    "Actions",
    "AdversarialTraining",
    "Free",
    "GradAlign",
    "Loss",
    "Method",
    "NuAT",
    "Perturbation",
    "Phase",
    "PolicyNetwork",
    "Review",
    "Reward",
    "Standard",
    "Task",
    "Traits",
    "Wrapper",
    "state",
]

_RENAMED = {"Strategist": "PolicyNetwork"}
_present = renamed_names(__name__, _RENAMED)


def __getattr__(name: str) -> Any:
    """Return what a name of version 0.1 stands for, with a warning."""
    return globals()[_present(name)]
