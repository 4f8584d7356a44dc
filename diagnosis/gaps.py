"""Where a network's error comes from: gaps between measured errors, and what its learning curves show.

Errors are put in a row, the one wanted, of training, of new pictures of the training distribution, of validation, of
the test, and each is compared with the one before it (Ng 2018, Machine Learning Yearning, chapters 20 to 29 and 40 to
43). A gap of less than two standard errors is none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from callbacks.training_monitor import Record, curve

Cause = Literal["bias", "variance", "data mismatch", "overfitting to the validation split"]
Sign = Literal["does not learn", "diverges", "overfits", "still falling"]


@dataclass(frozen=True)
class Measured:
    """A share of wrong answers, 0 to 1, and where it is from.

    ``pictures`` is how many were asked; None for an error that is wanted. ``at_most`` says that the true error may be
    smaller.
    """

    of: str
    error: float
    pictures: int | None
    origin: str = ""
    at_most: bool = False

    @property
    def variance(self) -> float:
        """Of the share; two right and two wrong answers are added, so that no error of 0 is certain (Agresti & Coull
        1998)."""
        if self.pictures is None:
            return 0.0
        asked = self.pictures + 4
        share = (self.error * self.pictures + 2) / asked
        return share * (1 - share) / asked


@dataclass(frozen=True)
class Gap:
    """By how much an error exceeds the one before it."""

    cause: Cause
    before: Measured
    after: Measured

    @property
    def size(self) -> float:
        """Difference of the shares; below 0 where the later error is smaller."""
        return self.after.error - self.before.error

    @property
    def margin(self) -> float:
        """Two standard errors of the difference."""
        return 2 * math.sqrt(self.before.variance + self.after.variance)

    @property
    def found(self) -> bool:
        """Whether there is one that chance does not explain."""
        return self.size > self.margin


def largest(gaps: Sequence[Gap]) -> tuple[Gap | None, bool]:
    """The largest gap that is found, and whether it is certain to be that.

    Where the training error is only known to be at most something, bias is at most its gap and variance at least its
    own: what one loses the other gains.
    """
    found = [gap for gap in gaps if gap.found]
    if not found:
        return None, True
    chosen = max(found, key=lambda gap: gap.size)
    bias = next((gap for gap in gaps if gap.cause == "bias" and gap.after.at_most), None)
    if bias is None or chosen.cause == "variance":
        return chosen, True
    if chosen is bias:
        return chosen, False
    variance = sum(gap.size for gap in gaps if gap.cause == "variance")
    return chosen, variance + bias.size <= chosen.size


def signs(history: Sequence[Record], classes: int | None) -> list[Sign]:
    """What the curves of a training show."""
    _, losses = curve(history, "train/loss")
    _, accuracies = curve(history, "train/top1")
    if classes and accuracies and max(accuracies) <= 1.1 / classes:
        return ["does not learn"]
    if any("train/loss" in record and record["train/loss"] is None for record in history):
        return ["diverges"]
    if len(losses) > 1 and losses[-1] >= losses[0]:
        return ["diverges"]
    _, losses_of_others = curve(history, "val/loss")
    found: list[Sign] = []
    if rises(losses_of_others) and falls(losses, 0):
        found.append("overfits")
    if falls(losses_of_others or losses, 0.02):
        found.append("still falling")
    return found


def falls(losses: Sequence[float], share: float) -> bool:
    """Whether the second half of a curve falls by more than chance, to its lowest, and by more than a share of it."""
    tail = np.array(losses[-max(4, len(losses) // 2) :])
    slope, error = slope_of(tail)
    lowest_is_late = len(tail) - 1 - int(tail.argmin()) <= max(1, len(losses) // 5)
    return slope < -2 * error and -slope * len(tail) > share * tail[-1] and lowest_is_late


def rises(losses: Sequence[float]) -> bool:
    """Whether a curve rises from its lowest point by more than chance, and by a twentieth in its last fifth."""
    if not losses:
        return False
    tail = np.array(losses[int(np.argmin(losses)) :])
    slope, error = slope_of(tail)
    return slope > 2 * error and float(np.mean(tail[-max(2, len(losses) // 5) :])) > 1.05 * tail[0]


def slope_of(values: np.ndarray) -> tuple[float, float]:
    """Slope of the line of least squares and its standard error; no certainty about fewer than 4 values."""
    count = len(values)
    if count < 4:
        return 0.0, math.inf
    x = np.arange(count) - (count - 1) / 2
    slope = float(x @ values / (x @ x))
    rest = values - values.mean() - slope * x
    return slope, math.sqrt(float(rest @ rest) / (count - 2) / float(x @ x))
