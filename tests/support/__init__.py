"""What tests of several rooms share: embeddings of a wanted similarity, detections, persons, the recorded store's
truth, and how they wait."""

from tests.support.detections import detection, embedding, moment
from tests.support.people import in_days, valid_poi
from tests.support.store import Dwell, Truth, load_truth
from tests.support.vectors import similar, unit
from tests.support.waiting import PATIENCE, turns, until

__all__ = [
    "PATIENCE",
    "Dwell",
    "Truth",
    "detection",
    "embedding",
    "in_days",
    "load_truth",
    "moment",
    "similar",
    "turns",
    "unit",
    "until",
    "valid_poi",
]
