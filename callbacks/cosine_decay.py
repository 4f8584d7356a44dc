"""Cosine decay of the learning rate (Loshchilov & Hutter 2017, SGDR, https://arxiv.org/abs/1608.03983), warmed up."""

import math

from callbacks.schedule import Schedule


class CosineDecay(Schedule):
    """Half a cosine from the optimizer's rate to zero over all steps, after a linear warm-up.

    The warm-up is that of Goyal et al. 2017 (https://arxiv.org/abs/1706.02677, section 2.2).

    Args:
        warmup: share of all steps in which the rate rises, 0 to less than 1.

    Raises:
        ValueError: at the first step, if the trainer has no end.
    """

    interval = "step"

    def __init__(self, warmup: float = 0.0) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup is {warmup}; it is a share of all steps, from 0 to less than 1")
        self.warmup = warmup

    def rate(self, base_rate: float, finished: int, total: float) -> float:
        """See ``Schedule.rate``."""
        if math.isinf(total):
            raise ValueError("CosineDecay decays to the end of training; set trainer.max_epochs")
        rising = self.warmup * total
        if finished < rising:
            return base_rate * (finished + 1) / (rising + 1)
        return base_rate * (1 + math.cos(math.pi * min(1, (finished - rising) / (total - rising)))) / 2
