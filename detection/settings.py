"""How pictures are searched: what `tools/detect.py` reads from its YAML file and flags."""

import math
from dataclasses import dataclass, field
from typing import Literal

Path = Literal["auto", "windows", "convolutional"]


@dataclass(frozen=True)
class Settings:
    """How pictures are searched.

    Args:
        resize: shorter side in pixels that a picture is brought to before anything else, at most 16 times as large as
            it is; its own by default. Boxes are in pixels of the file whatever it is.
        factor: each level of the pyramid is smaller than the one before by this factor, above 1; the last is the
            smallest one that holds a window.
        window: side of the windows in pixels; the network's input size by default. Others are scaled to that.
        step: pixels from one window to the next, to the right and down.
        probability: of a class, from which a window counts as an object of it, above 0 and up to 1.
        overlap: intersection over union, above which the less probable of two boxes of one class is left out, 0 to 1.
        background: classes that are never reported.
        path: ``windows`` passes each through the network; ``convolutional`` passes whole levels, in which neighbouring
            windows share their work; ``auto`` does that where it gives the same.
        batch_size: windows that pass the network at a time.
        tile: longest side in pixels of what passes the network at a time on the convolutional path.

    Raises:
        ValueError: one of them is out of range.
    """

    resize: int | None = None
    factor: float = 1.5
    window: int | None = None
    step: int = 16
    probability: float = 0.5
    overlap: float = 0.3
    background: list[str] = field(default_factory=list)
    path: Path = "auto"
    batch_size: int = 64
    tile: int = 1024

    def __post_init__(self) -> None:
        """Refuse what no search can use."""
        for name in ("resize", "window", "step", "batch_size", "tile"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not (1 < self.factor < math.inf):
            raise ValueError(f"factor is {self.factor}; it must be greater than 1")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability is {self.probability}; it must lie above 0 and not above 1")
        if not 0 <= self.overlap <= 1:
            raise ValueError(f"overlap is {self.overlap}; it must lie between 0 and 1")
