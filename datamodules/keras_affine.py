"""Rotation, shift, shear and zoom of single pictures as in Keras 2: an albumentations transform."""

from typing import Any

import numpy as np
from albumentations import ImageOnlyTransform

from datamodules.geometry import Interpolation, random_keras_matrices, warp


class KerasAffine(ImageOnlyTransform):
    """What Keras 2's ImageDataGenerator does with these ranges, for one square picture at a time.

    Each value is drawn evenly from its range; the zoom separately for the two axes. Pixels from outside the picture
    take the nearest pixel of its border.

    Args:
        rotation: greatest angle in degrees.
        shift: greatest shift along each axis, as a fraction of the size.
        shear: greatest shear in radians.
        zoom: greatest deviation of the zoom from 1.
        interpolation: ``linear`` between pixels, as Keras since 2.1.4, or the ``nearest`` pixel, as before.
        p: probability that a picture is transformed.
    """

    def __init__(
        self,
        rotation: float = 0.0,
        shift: float = 0.0,
        shear: float = 0.0,
        zoom: float = 0.0,
        interpolation: Interpolation = "linear",
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.rotation, self.shift, self.shear, self.zoom = rotation, shift, shear, zoom
        self.interpolation: Interpolation = interpolation

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw a matrix."""
        height, width = params["shape"][:2]
        if height != width:
            raise ValueError(f"KerasAffine takes square pictures, not {height}x{width}")
        ranges = self.rotation, self.shift, self.shear, self.zoom
        return {"matrix": random_keras_matrices(self.random_generator, 1, ranges, width)[0]}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        """The picture ``(H, W, C)`` seen through a matrix."""
        seen = np.empty_like(img)
        warp(img, matrix, "replicate", seen, self.interpolation)
        return seen
