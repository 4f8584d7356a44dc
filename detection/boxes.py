"""Boxes with a class and a probability, and which of those that overlap are kept."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms


@dataclass(frozen=True)
class Boxes:
    """Objects that were found, or are known to be there.

    Args:
        corners: left, top, right, bottom in pixels of the file, float64 ``(N, 4)``.
        labels: numbers of the classes, int64 ``(N,)``.
        probabilities: of those classes, float32 ``(N,)``.
    """

    corners: Tensor
    labels: Tensor
    probabilities: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "Boxes":
        """The named rows, in that order."""
        return Boxes(self.corners[rows], self.labels[rows], self.probabilities[rows])

    def without_overlaps(self, overlap: float) -> "Boxes":
        """Non-maximum suppression: of two boxes of one class the less probable goes, the rest by falling probability.

        Args:
            overlap: intersection over union, above which two boxes are of one object.
        """
        return self.take(batched_nms(self.corners, self.probabilities.double(), self.labels, overlap))


def joined(parts: list[Boxes]) -> Boxes:
    """All of them, one after the other."""
    columns = zip(*((each.corners, each.labels, each.probabilities) for each in parts), strict=True)
    return Boxes(*map(torch.cat, columns))
