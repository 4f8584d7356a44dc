"""Handwritten digits: 1 797 real 8x8 scans that come with scikit-learn (Alpaydin & Kaynak 1998); no download."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sklearn.datasets import load_digits

from datamodules.base import ImageDataModule
from datamodules.samples import Samples


class Digits(ImageDataModule):
    """Ten classes, enlarged to 32x32 RGB."""

    name = "digits"
    classes = tuple("0123456789")
    official_samples = 1_797
    default_image_size = 32

    @property
    def recipe(self) -> dict[str, Any]:
        """With the arithmetic that the pixels come from."""
        return {**super().recipe, "interpolation": "cubic in float64"}

    def read(self, raw: Path) -> dict[str, Samples]:
        """All scans as one split; grey levels 0..16 become 0..255.

        Float64 holds every interpolated value exactly, so that all processors pack the same bytes.
        """
        digits = load_digits()
        grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
        exact = [cv2.resize(image.astype(np.float64), (32, 32), interpolation=cv2.INTER_CUBIC) for image in grey]
        large = np.rint(exact).clip(0, 255).astype(np.uint8)
        return {"train": Samples(np.repeat(large[..., None], 3, axis=3), digits.target.astype(np.int64))}
