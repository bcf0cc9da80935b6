"""What tests of several rooms share: embeddings of a wanted similarity, detections, persons, the recorded store's
truth."""

from tests.support.detections import detection, embedding, moment
from tests.support.people import in_days, valid_poi
from tests.support.store import Dwell, Truth, load_truth
from tests.support.vectors import similar, unit

__all__ = [
    "Dwell",
    "Truth",
    "detection",
    "embedding",
    "in_days",
    "load_truth",
    "moment",
    "similar",
    "unit",
    "valid_poi",
]
