"""Data: labelled images from anywhere, whole on the device, with a stable index and a view for every sample."""

from sparring.data.augment import Augment, View
from sparring.data.batch import Batch, Images
from sparring.data.resident import Resident, batches
from sparring.data.sources import KNOWN, Data, Splits, load
from sparring.data.training_data import Draw, TrainingData

__all__ = [
    "KNOWN",
    "Augment",
    "Batch",
    "Data",
    "Draw",
    "Images",
    "Resident",
    "Splits",
    "TrainingData",
    "View",
    "batches",
    "load",
]
