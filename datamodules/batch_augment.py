"""Augmentation of whole batches: every sample by its own random numbers, which only its key and the seed decide."""

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from datamodules.draws import uniforms
from datamodules.geometry import Border, Interpolation, crop_matrices, keras_matrices, mirrored

# The column of each random number of a sample. New ones go to the end, so that the others stay as they are.
GEOMETRY = ("left", "top", "flip", "rotation", "shift_x", "shift_y", "shear", "zoom_x", "zoom_y")
COLOURS = ("brightness", "contrast", "saturation", "hue")
ERASING = ("erased", "erased_area", "erased_aspect", "erased_x", "erased_y")
MIXING = ("method", "share", "cut_x", "cut_y")
COLUMNS = (*GEOMETRY, *COLOURS, *ERASING, *MIXING)

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class BatchAugment:
    """Random crop, flip, affine map, colours, erasing and mixing of the training pictures, in this order.

    Crop, flip and affine map are one resampling of the stored picture. On a GPU everything is computed there; on a CPU
    the loader's threads do the resampling.

    Args:
        crop: height and width of the crop in pixels; by default the stored size.
        padding: pixels by which a crop may reach over each edge of the stored picture.
        flip: probability of a flip from left to right.
        rotation: greatest angle in degrees; this and the next three are what Keras 2 calls so (``keras_matrices``).
        shift: greatest shift along each axis, as a fraction of the crop.
        shear: greatest shear in radians.
        zoom: greatest deviation of the zoom from 1, drawn for each axis.
        border: what lies outside the stored picture: its nearest pixel, or black.
        interpolation: ``linear`` between pixels, as Keras since 2.1.4, or the ``nearest`` pixel, as before.
        brightness: greatest deviation from 1 of the factor of all values.
        contrast: the same, of the distance from the picture's mean grey.
        saturation: the same, of the distance from each pixel's grey.
        hue: greatest turn about the grey axis, in turns.
        erasing: probability that a rectangle is erased (Zhong et al. 2020): 2 to 33 % of the area, sides 0.3 to 3.3.
        mixup: alpha of the Beta distribution of the shares in which pictures and labels are mixed (Zhang et al. 2018).
        cutmix: alpha for rectangles pasted from another picture (Yun et al. 2019). Where both are above 0, each
            sample gets one of them.
    """

    def __init__(
        self,
        crop: int | None = None,
        padding: int = 0,
        flip: float = 0.0,
        rotation: float = 0.0,
        shift: float = 0.0,
        shear: float = 0.0,
        zoom: float = 0.0,
        border: Border = "replicate",
        interpolation: Interpolation = "linear",
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        for name, value, most in (
            *(("flip", flip, 1), ("rotation", rotation, 180), ("shift", shift, 1), ("shear", shear, 1.5)),
            *(("zoom", zoom, 0.99), ("brightness", brightness, 1), ("contrast", contrast, 1)),
            *(("saturation", saturation, 1), ("hue", hue, 0.5), ("erasing", erasing, 1)),
            *(("padding", padding, np.inf), ("mixup", mixup, np.inf), ("cutmix", cutmix, np.inf)),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name} is {value}; it must lie between 0 and {most}")
        self.crop, self.padding, self.flip, self.border = crop, padding, flip, border
        self.interpolation: Interpolation = interpolation
        self.rotation, self.shift, self.shear, self.zoom = rotation, shift, shear, zoom
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.erasing, self.mixup, self.cutmix = erasing, mixup, cutmix

    def output_size(self, size: int) -> int:
        """Height and width of the augmented pictures, from those of the stored ones.

        Raises:
            ValueError: the crop is larger than a padded picture, or could lie wholly in the padding.
        """
        if self.padding >= (self.crop or size):
            raise ValueError(f"padding is {self.padding}; it must be less than the crop, {self.crop or size} pixels")
        if self.crop and not 0 < self.crop <= size + 2 * self.padding:
            raise ValueError(
                f"crop is {self.crop}; pictures of {size} pixels with a padding of {self.padding} allow 1 to "
                f"{size + 2 * self.padding}"
            )
        return self.crop or size

    def matrices(self, seed: int, keys: np.ndarray, size: int) -> np.ndarray:
        """Where the pixels of each output come from, ``(B, 2, 3)``, for stored pictures of ``size`` pixels."""
        drawn = dict(zip(GEOMETRY, uniforms(seed, keys, len(GEOMETRY)).T, strict=True))
        crop = self.output_size(size)
        places = size + 2 * self.padding - crop + 1
        left, top = (np.floor(drawn[name] * places) - self.padding for name in ("left", "top"))
        if self.rotation or self.shift or self.shear or self.zoom:
            turn, lean = ((2 * drawn[name] - 1) * getattr(self, name) for name in ("rotation", "shear"))
            shift_x, shift_y = ((2 * drawn[name] - 1) * self.shift for name in ("shift_x", "shift_y"))
            zoom_x, zoom_y = (1 + (2 * drawn[name] - 1) * self.zoom for name in ("zoom_x", "zoom_y"))
            matrices = keras_matrices(turn, shift_x, shift_y, lean, zoom_x, zoom_y, crop)
            matrices[:, 0, 2] += left
            matrices[:, 1, 2] += top
            if self.interpolation == "nearest" and not (self.rotation or self.shear or self.zoom):
                matrices[:, :, 2] = np.round(matrices[:, :, 2])  # whole pixels are copied, not resampled
        else:
            matrices = crop_matrices(left, top)
        return mirrored(matrices, drawn["flip"] < self.flip, crop)

    @property
    def changes_colours(self) -> bool:
        """Whether ``colours`` does anything."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    def colours(self, images: Tensor, seed: int, keys: np.ndarray) -> Tensor:
        """Jittered copies, float ``(B, H, W, 3)``, of pictures uint8 ``(B, H, W, 3)``; both on the 0..255 scale.

        Each picture's colours go through one affine map: brightness and contrast about the mean grey, saturation about
        each pixel's grey, hue as a turn about the grey axis. They are clipped once, at the end.
        """
        drawn = dict(zip(COLUMNS, uniforms(seed, keys, len(COLUMNS)).T, strict=True))
        brightness, contrast, saturation = (
            1 + (2 * drawn[name] - 1) * getattr(self, name) for name in ("brightness", "contrast", "saturation")
        )
        angle = 2 * np.pi * self.hue * (2 * drawn["hue"] - 1)
        matrices = turns_about_grey(angle) @ saturations(saturation) * (brightness * contrast)[:, None, None]
        pixels = images.flatten(1, 2).float()  # (B, H * W, 3)
        weights = np.outer((1 - contrast) * brightness, LUMA)
        grey = (pixels.mean(dim=1) * _tensor(weights, images.device)).sum(dim=1)
        mapped = torch.baddbmm(grey.view(-1, 1, 1), pixels, _tensor(matrices, images.device).transpose(1, 2))
        return mapped.clamp_(0, 255).view(images.shape)

    def erase_and_mix(
        self, images: Tensor, labels: Tensor, seed: int, keys: np.ndarray, classes: int
    ) -> tuple[Tensor, Tensor]:
        """Normalised pictures ``(B, C, H, W)`` with rectangles set to 0, then mixed with those of the one before.

        Returns:
            Pictures, and labels as they were, or mixed ones float ``(B, classes)``.
        """
        if not (self.erasing or self.mixup or self.cutmix):
            return images, labels
        drawn = dict(zip(COLUMNS, uniforms(seed, keys, len(COLUMNS)).T, strict=True))
        size = images.shape[-2:]
        if self.erasing:
            area = 0.02 + 0.31 * drawn["erased_area"]
            aspect = np.exp(np.log(0.3) + np.log(3.3 / 0.3) * drawn["erased_aspect"])
            height, width = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
            height, width = (side * (drawn["erased"] < self.erasing) for side in (height, width))
            top, left = drawn["erased_y"] * (1 - height), drawn["erased_x"] * (1 - width)
            images = images.masked_fill(inside(top, left, height, width, size, images.device).unsqueeze(1), 0)
        if not (self.mixup or self.cutmix):
            return images, labels

        cut = drawn["method"] < (0.5 if self.mixup and self.cutmix else float(bool(self.cutmix)))
        alpha = np.where(cut, self.cutmix or 1.0, self.mixup or 1.0)
        share = betaincinv(alpha, alpha, drawn["share"])  # of the sample itself
        side = np.sqrt(1 - share) * cut
        top, left = drawn["cut_y"] - side / 2, drawn["cut_x"] - side / 2
        pasted = inside(top, left, side, side, size, images.device)
        own = torch.where(
            _tensor(cut, images.device, torch.bool)[:, None, None],
            (~pasted).float(),
            _tensor(share, images.device)[:, None, None],
        )
        weights = own.unsqueeze(1).to(images.dtype)
        images = torch.lerp(images.roll(1, 0), images, weights)
        share = own.mean(dim=(1, 2)).unsqueeze(1)  # a rectangle may lie partly outside
        one_hot = F.one_hot(labels, classes).float()
        return images, torch.lerp(one_hot.roll(1, 0), one_hot, share)


def saturations(factors: np.ndarray) -> np.ndarray:
    """Matrices ``(B, 3, 3)`` that scale the distance of a colour from its grey."""
    grey = np.tile(np.array(LUMA), (3, 1))
    return grey + factors[:, None, None] * (np.eye(3) - grey)


def turns_about_grey(angles: np.ndarray) -> np.ndarray:
    """Rotations ``(B, 3, 3)`` of colour space about the grey axis, by radians (Rodrigues' formula)."""
    axis = np.full(3, 3**-0.5)
    cross = np.cross(np.eye(3), axis)
    along = np.outer(axis, axis)
    sin, cos = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    return along + cos * (np.eye(3) - along) + sin * cross


def inside(
    top: np.ndarray, left: np.ndarray, height: np.ndarray, width: np.ndarray, size: torch.Size, device: torch.device
) -> Tensor:
    """Masks ``(B, H, W)`` of rectangles, whose corners and sides ``(B,)`` are fractions of the picture's."""
    spans = []
    for start, length, pixels in ((top, height, size[0]), (left, width, size[1])):
        first, last = np.round(start * pixels)[:, None], np.round((start + length) * pixels)[:, None]
        spans.append(_tensor((np.arange(pixels) >= first) & (np.arange(pixels) < last), device, torch.bool))
    return spans[0].unsqueeze(2) & spans[1].unsqueeze(1)


def _tensor(array: np.ndarray, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.as_tensor(array, dtype=dtype).to(device, non_blocking=True)
