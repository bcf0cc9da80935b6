"""What a cosine is worth: how often a stranger's face reaches it, by measurement.

`table` is what was measured, and its file; `Calibration` answers from it, and beyond it by the tail of a normal
distribution. One table a model is in this package; `command` measures another on photos of one's own.
"""

from match_svc.calibration.curves import Calibration
from match_svc.calibration.files import load, shipped

__all__ = ["Calibration", "load", "shipped"]
