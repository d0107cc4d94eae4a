"""Data: labelled images from anywhere, whole on the device, with a stable index and a view for every sample."""

from sparring.data.augment import Augment, View
from sparring.data.batch import Batch
from sparring.data.images import Images, Labelled, images_of
from sparring.data.resident import Resident, batches
from sparring.data.sources import KNOWN, Data, load
from sparring.data.splits import Splits
from sparring.data.training_data import Draw, TrainingData

__all__ = [
    "KNOWN",
    "Augment",
    "Batch",
    "Data",
    "Draw",
    "Images",
    "Labelled",
    "Resident",
    "Splits",
    "TrainingData",
    "View",
    "batches",
    "images_of",
    "load",
]
