"""Windows of a photograph that was shrunk and enlarged again, beside those of itself."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from datamodules.picture_files import rgb

Colour = Literal["rgb", "luminance"]

CHANNELS: dict[Colour, int] = {"rgb": 3, "luminance": 1}
STRIDE = 14  # pixels from one window to the next


@dataclass(frozen=True)
class PairWindows:
    """The rows of a photograph: windows uint8 ``(n, S, S, 2 C)``, interpolated planes and then original ones.

    Args:
        factor: by which they were shrunk and enlarged.
        colour: of the planes.
        most: windows, drawn at random.
        seed: of the choice, with the number of the photograph.
    """

    factor: int
    colour: Colour
    most: int
    seed: int

    @property
    def channels(self) -> int:
        """2 C: those of the interpolated window and of the original one."""
        return 2 * CHANNELS[self.colour]

    def __call__(self, image: Image.Image, label: int, size: int) -> np.ndarray:
        """See ``samples.Windows``."""
        image = rgb(image)
        original = cropped(image if self.colour == "rgb" else image.convert("L"), self.factor)  # L is the Y of BT.601
        if min(original.size) < size:
            raise ValueError(f"it has {image.width}x{image.height} pixels, less than a window of {size}x{size}")
        interpolated = enlarged(shrunk(original, self.factor), self.factor)
        pair = np.concatenate([planes(interpolated), planes(original)], axis=2)
        cut = sliding_window_view(pair, (size, size), axis=(0, 1))[::STRIDE, ::STRIDE]
        rows, columns = cut.shape[:2]
        chosen = np.random.default_rng([self.seed, label]).permutation(rows * columns)[: self.most]
        return cut[chosen // columns, chosen % columns].transpose(0, 2, 3, 1)


def cropped(image: Image.Image, factor: int) -> Image.Image:
    """The upper left of a picture, with width and height multiples of the factor."""
    return image.crop((0, 0, image.width // factor * factor, image.height // factor * factor))


def shrunk(image: Image.Image, factor: int) -> Image.Image:
    """A picture of ``1 / factor`` of the size: bicubic, with the kernel widened against aliasing."""
    return image.resize((image.width // factor, image.height // factor), Image.Resampling.BICUBIC)


def enlarged(image: Image.Image, factor: int) -> Image.Image:
    """A picture of ``factor`` times the size, bicubic."""
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def planes(image: Image.Image) -> np.ndarray:
    """uint8 ``(H, W, C)``, also of one channel."""
    return np.asarray(image).reshape(image.height, image.width, -1)
