"""Detection with a classifier: image pyramid, sliding windows, non-maximum suppression."""

from detection.boxes import Boxes
from detection.detector import Detector
from detection.settings import Settings

__all__ = ["Boxes", "Detector", "Settings"]
