"""Image classifiers that take pixels in [0, 1], normalise inside and return logits."""

from sparring.models.description import ModelDescription
from sparring.models.folding import Fold, copied, fold, foldable, folded
from sparring.models.foreign import adopt
from sparring.models.imported import imported, is_reference
from sparring.models.layout import may_be_channels_last
from sparring.models.normalise import Normalised
from sparring.models.registry import create, names
from sparring.models.weights import create_from, load, save, save_seen, with_counters

__all__ = [
    "Fold",
    "ModelDescription",
    "Normalised",
    "adopt",
    "copied",
    "create",
    "create_from",
    "fold",
    "foldable",
    "folded",
    "imported",
    "is_reference",
    "load",
    "may_be_channels_last",
    "names",
    "save",
    "save_seen",
    "with_counters",
]
