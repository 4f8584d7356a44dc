"""Where each pixel of an augmented picture comes from: affine matrices, and the pictures seen through them.

A matrix ``(2, 3)`` maps pixel coordinates (x, y, 1) of the output to coordinates (x, y) of the input; pixel centres
have whole coordinates.
"""

from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

Border = Literal["replicate", "zeros"]
Interpolation = Literal["linear", "nearest"]
CV_BORDERS = {"replicate": cv2.BORDER_REPLICATE, "zeros": cv2.BORDER_CONSTANT}
TORCH_BORDERS = {"replicate": "border", "zeros": "zeros"}
CV_INTERPOLATIONS = {"linear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}
TORCH_INTERPOLATIONS = {"linear": "bilinear", "nearest": "nearest"}


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


def random_keras_matrices(rng: np.random.Generator, count: int, ranges: tuple[float, ...], size: int) -> np.ndarray:
    """Such matrices ``(count, 2, 3)``, drawn evenly up to a rotation, shift, shear and deviation of the zoom from 1."""
    drawn = rng.uniform(-1, 1, (6, count)) * np.array(ranges)[[0, 1, 1, 2, 3, 3], None]  # shift and zoom of each axis
    drawn[4:] += 1
    return keras_matrices(*drawn, size=size)


def crop_matrices(left: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Matrices ``(B, 2, 3)`` of crops whose upper left corner ``(B,)`` lies at these pixels of the input."""
    matrices = np.zeros((len(left), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1
    matrices[:, 0, 2], matrices[:, 1, 2] = left, top
    return matrices


def resize_matrix(size: int, new_size: int) -> np.ndarray:
    """Matrix ``(2, 3)`` of a square picture scaled from one size to another, edges on edges."""
    scale = size / new_size
    return np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]])


def resize_matrices(size: int, new_size: int, keys: np.ndarray) -> np.ndarray:
    """The same for each key ``(B,)``: ``(B, 2, 3)``."""
    return np.broadcast_to(resize_matrix(size, new_size), (len(keys), 2, 3))


def mirrored(matrices: np.ndarray, where: np.ndarray, width: int) -> np.ndarray:
    """The matrices ``(B, 2, 3)``, those ``where`` ``(B,)`` is true with the output flipped from left to right."""
    flipped = matrices.copy()
    flipped[:, :, 2] += (width - 1) * matrices[:, :, 0]
    flipped[:, :, 0] *= -1
    return np.where(where[:, None, None], flipped, matrices)


def warp(
    image: np.ndarray, matrix: np.ndarray, border: Border, out: np.ndarray, interpolation: Interpolation = "linear"
) -> None:
    """Fill ``out``, uint8 ``(h, w, C)``, with the picture uint8 ``(H, W, C)`` seen through a matrix."""
    flags = CV_INTERPOLATIONS[interpolation] | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(image, matrix, out.shape[1::-1], dst=out, flags=flags, borderMode=CV_BORDERS[border])


def warp_on_device(
    images: Tensor, matrices: np.ndarray, size: int, border: Border, interpolation: Interpolation = "linear"
) -> Tensor:
    """A batch uint8 ``(B, H, W, C)`` on its device, seen through matrices ``(B, 2, 3)``: ``(B, size, size, C)``.

    One matrix ``(1, 2, 3)`` is that of all pictures. Nothing waits for the device.
    """
    height, width = images.shape[1:3]
    scaled = matrices * np.array([[2 / (width - 1)], [2 / (height - 1)]])  # to -1 .. 1, as grid_sample counts
    scaled[:, :, 2] -= 1
    scaled = torch.from_numpy(scaled.astype(np.float32)).to(images.device, non_blocking=True)
    of_x, of_y, offset = scaled[:, None, None].unbind(-1)  # (B, 1, 1, 2)
    axis = torch.arange(size, dtype=torch.float32, device=images.device)
    grid = torch.addcmul(offset, axis[:, None, None], of_y)  # no matrix product, which TF32 would round
    grid = torch.addcmul(grid, axis[:, None], of_x)
    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    mode = TORCH_INTERPOLATIONS[interpolation]
    grid = grid.expand(len(images), size, size, 2)
    seen = F.grid_sample(planes, grid, mode, TORCH_BORDERS[border], align_corners=True)
    return seen.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)


def ten_crops(images: Tensor, size: int) -> Tensor:
    """Corners, centre and their mirror images of each picture, ``(10 B, size, size, C)``, of ``(B, H, W, C)``."""
    crops = torch.stack(transforms.five_crop(images.permute(0, 3, 1, 2), size), dim=1)
    return torch.cat([crops, crops.flip(-1)], dim=1).flatten(0, 1).permute(0, 2, 3, 1)


def with_mirrored(images: Tensor) -> Tensor:
    """Each picture and its mirror image, ``(2 B, H, W, C)``, of a batch ``(B, H, W, C)``."""
    return torch.stack([images, images.flip(2)], dim=1).flatten(0, 1)
