"""One iteration of a synthesis, as whoever goes through it sees it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Step:
    """The picture after an iteration.

    Args:
        number: of the iteration, from 1; 0 is the start.
        octave: from 1.
        losses: the terms of the loss, weighted.
        pixels: float32 RGB ``(1, 3, H, W)``, 0..255 and beyond.
    """

    number: int
    octave: int
    losses: dict[str, float]
    pixels: Tensor

    @property
    def loss(self) -> float:
        """The sum of the terms."""
        return sum(self.losses.values())
