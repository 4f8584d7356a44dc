"""Inverse time decay of the learning rate: the argument ``decay`` of Keras optimizers."""

from callbacks.schedule import Schedule


class InverseTimeDecay(Schedule):
    """Learning rate ``base / (1 + rate * steps)`` after that many finished steps.

    Args:
        rate: decay in each step; ``1 / steps`` halves the learning rate in so many steps.
    """

    interval = "step"

    def __init__(self, rate: float) -> None:
        if rate < 0:
            raise ValueError(f"rate is {rate}; it must not be negative")
        self.decay = rate

    def rate(self, base_rate: float, finished: int, total: float) -> float:
        """See ``Schedule.rate``."""
        return base_rate / (1 + self.decay * finished)
