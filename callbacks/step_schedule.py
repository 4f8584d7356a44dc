"""A learning rate that is constant between named epochs."""

from callbacks.schedule import Schedule


class StepSchedule(Schedule):
    """The learning rates given by hand; before the first named epoch, the optimizer's own.

    Args:
        rates: learning rate from that epoch on, epochs counted from 1: ``{51: 0.01, 76: 0.001}``.
    """

    def __init__(self, rates: dict[int, float]) -> None:
        if not rates:
            raise ValueError("rates is empty; give at least one epoch with its learning rate")
        for epoch, rate in rates.items():
            if epoch < 1:
                raise ValueError(f"rates names epoch {epoch}; epochs count from 1")
            if rate <= 0:
                raise ValueError(f"the learning rate from epoch {epoch} on is {rate}; it must be positive")
        self.rates = rates

    def rate(self, base_rate: float, finished: int, total: float) -> float:
        """See ``Schedule.rate``."""
        begun = [epoch for epoch in self.rates if epoch <= finished + 1]
        return self.rates[max(begun)] if begun else base_rate
