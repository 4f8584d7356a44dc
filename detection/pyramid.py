"""Image pyramid: one picture at several sizes, so that windows of one size find objects of many."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MOST_ENLARGED = 16  # times; a line of one pixel would have hundreds of thousands of windows


@dataclass(frozen=True)
class Level:
    """A picture at one of its sizes.

    Args:
        pixels: uint8 RGB ``(h, w, 3)``.
        width: of the picture's file, in pixels.
        height: of the same.
    """

    pixels: np.ndarray
    width: int
    height: int

    def boxes(self, places: Tensor, window: int) -> Tensor:
        """Corners float64 ``(N, 4)``, x and y of both, in pixels of the file.

        Args:
            places: left and top of windows in pixels of this level, integers ``(N, 2)``.
            window: their side in pixels of this level.
        """
        high, wide = self.pixels.shape[:2]
        corners = torch.cat([places, places + window], dim=1).double()
        return corners * torch.tensor([self.width / wide, self.height / high] * 2, dtype=torch.float64)


def pyramid(picture: np.ndarray, resize: int | None, factor: float, window: int) -> Iterator[Level]:
    """A picture uint8 ``(H, W, 3)`` at falling sizes, each scaled from the picture itself (antialiased bicubic).

    Args:
        resize: shorter side of the first level in pixels; the picture's own if None.
        factor: between the sizes of neighbouring levels, above 1.
        window: least height and width of a level in pixels.

    Raises:
        ValueError: even the first level is smaller than a window, or more than ``MOST_ENLARGED`` times the picture.
    """
    height, width = picture.shape[:2]
    if max(resize or 0, window) > MOST_ENLARGED * min(height, width):
        enlarged = f"it would be enlarged more than {MOST_ENLARGED} times"
        raise ValueError(f"its {width}x{height} pixels are too few: {enlarged}")
    first = resize / min(height, width) if resize else 1.0
    sizes = max(1, round(width * first)), max(1, round(height * first))
    if min(sizes) < window:
        raise ValueError(
            f"its {sizes[0]}x{sizes[1]} pixels are fewer than the window's {window}x{window}; --resize {window} "
            "or more makes it large enough"
        )
    image, scale = Image.fromarray(picture), 1.0
    while min(sizes) >= window:
        scaled = picture if sizes == (width, height) else np.array(image.resize(sizes, Image.Resampling.BICUBIC))
        yield Level(scaled, width, height)
        scale *= factor
        sizes = round(width * first / scale), round(height * first / scale)
