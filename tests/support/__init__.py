"""What tests of several rooms share: embeddings of a wanted similarity, detections, the recorded store's truth."""

from tests.support.detections import detection, embedding, moment
from tests.support.store import Dwell, Truth, load_truth
from tests.support.vectors import similar, unit

__all__ = ["Dwell", "Truth", "detection", "embedding", "load_truth", "moment", "similar", "unit"]
