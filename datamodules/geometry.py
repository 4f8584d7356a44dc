"""Where each pixel of an augmented picture comes from: affine matrices, the same for one picture and for a batch.

A matrix ``(2, 3)`` maps pixel coordinates (x, y, 1) of the output to coordinates (x, y) of the input; pixel centres
have whole coordinates.
"""

import numpy as np


def keras_matrices(
    rotation: np.ndarray,
    shift_x: np.ndarray,
    shift_y: np.ndarray,
    shear: np.ndarray,
    zoom_x: np.ndarray,
    zoom_y: np.ndarray,
    size: int,
) -> np.ndarray:
    """Matrices ``(B, 2, 3)`` of what Keras 2's ImageDataGenerator calls rotation, shift, shear and zoom.

    About the centre of a square picture, output to input: zoom first, then shear, then shift, then rotation. All
    arguments are ``(B,)``.

    Args:
        rotation: degrees.
        shift_x: fraction of the width.
        shift_y: fraction of the height.
        shear: radians.
        zoom_x: factor; above 1 the picture shrinks.
        zoom_y: factor.
        size: height and width in pixels.
    """
    angle = np.deg2rad(rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    # In (x, y): rotation [[cos, sin], [-sin, cos]] times shear [[cos(shear), 0], [-sin(shear), 1]] times zoom
    linear = np.empty((len(angle), 2, 2))
    linear[:, 0, 0] = (cos * np.cos(shear) - sin * np.sin(shear)) * zoom_x
    linear[:, 0, 1] = sin * zoom_y
    linear[:, 1, 0] = (-sin * np.cos(shear) - cos * np.sin(shear)) * zoom_x
    linear[:, 1, 1] = cos * zoom_y
    shift = size * np.stack([cos * shift_x + sin * shift_y, cos * shift_y - sin * shift_x], axis=1)
    centre = (size - 1) / 2
    offset = shift + centre - centre * linear.sum(axis=2)
    return np.concatenate([linear, offset[:, :, None]], axis=2)
