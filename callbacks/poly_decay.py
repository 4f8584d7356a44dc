"""Polynomial decay of the learning rate to zero (Chen et al. 2016, DeepLab, https://arxiv.org/abs/1606.00915)."""

import math
from typing import Literal

from callbacks.schedule import Schedule


class PolyDecay(Schedule):
    """Learning rate ``base * (1 - finished / total) ** power``.

    Args:
        power: 1 is linear decay.
        interval: whether the rate falls after each epoch or after each step.

    Raises:
        ValueError: at the first step, if the trainer has no end in that interval.
    """

    def __init__(self, power: float = 1.0, interval: Literal["epoch", "step"] = "epoch") -> None:
        if power <= 0:
            raise ValueError(f"power is {power}; it must be positive")
        self.power = power
        self.interval = interval

    def rate(self, base_rate: float, finished: int, total: float) -> float:
        """See ``Schedule.rate``."""
        if math.isinf(total):
            raise ValueError("PolyDecay decays to the end of training; set trainer.max_epochs")
        return base_rate * max(0.0, 1 - finished / total) ** self.power
