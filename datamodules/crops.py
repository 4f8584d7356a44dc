"""Crops, flips and normalisation of uint8 pictures, straight into the buffer of a batch."""

import cv2
import numpy as np

from datamodules.geometry import CV_BORDERS, Border

try:
    from datamodules import compiled
except ImportError:  # numba is optional: the same results, at a half to a fifth of the speed
    compiled = None

LARGE = 96  # pixels; from there on numpy's copy and OpenCV's flip of a picture beat the compiled loop over pixels
COMPILED_CHANNELS = 3  # the compiled crops know no other number


def crop(
    source: np.ndarray,
    rows: np.ndarray,
    places: np.ndarray,
    left: np.ndarray,
    top: np.ndarray,
    flipped: np.ndarray,
    border: Border,
    out: np.ndarray,
) -> None:
    """Copy crops of some pictures to their places in a batch.

    Args:
        source: pictures, uint8 ``(N, H, W, C)``.
        rows: which of them, ``(n,)``.
        places: where in the batch, ``(n,)``.
        left: first column of each crop ``(n,)``; a crop may reach over the edges.
        top: first row of each crop ``(n,)``.
        flipped: which crops are flipped from left to right, ``(n,)``.
        border: what lies outside a picture.
        out: the batch, uint8 ``(B, h, w, C)``.
    """
    if _compiled_crops(out):
        compiled.crop(_lines(source), rows, places, left, top, flipped, border == "zeros", _lines(out))
        return
    for row, place, x, y, flip in zip(rows, places, left, top, flipped, strict=True):
        _crop(source[row], x, y, flip, border, out[place])


def normalize(images: np.ndarray, shift: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
    """``(images - shift) * scale`` of a batch uint8 ``(B, h, w, C)`` into float32 of that shape.

    ``shift`` is ``(h, w * C)``, or ``(1, w * C)`` where it is the same for all rows; ``scale`` is ``(w * C,)``.
    """
    if compiled:
        compiled.normalize(_lines(images), shift, scale, _lines(out))
        return
    for image, line in zip(_lines(images), _lines(out), strict=True):  # a picture at a time stays in the cache
        np.subtract(image, shift, out=line)
        np.multiply(line, scale, out=line)


def crop_normalized(
    source: np.ndarray,
    rows: np.ndarray,
    places: np.ndarray,
    left: np.ndarray,
    top: np.ndarray,
    flipped: np.ndarray,
    border: Border,
    shift: np.ndarray,
    scale: np.ndarray,
    out: np.ndarray,
) -> None:
    """``crop`` and ``normalize`` in one pass; ``out`` is float32 ``(B, h, w, C)``."""
    if _compiled_crops(out):
        arrays = rows, places, left, top, flipped
        compiled.crop_normalized(_lines(source), *arrays, border == "zeros", shift, scale, _lines(out))
        return
    picture = np.empty((1, *out.shape[1:]), np.uint8)  # one at a time stays in the cache
    for row, place, x, y, flip in zip(rows, places, left, top, flipped, strict=True):
        _crop(source[row], x, y, flip, border, picture[0])
        normalize(picture, shift, scale, out[place : place + 1])


def _lines(images: np.ndarray) -> np.ndarray:
    """The same bytes as ``(N, H, W * C)``."""
    return images.reshape(*images.shape[:2], -1)


def _compiled_crops(out: np.ndarray) -> bool:
    return compiled is not None and out.shape[2] < LARGE and out.shape[3] == COMPILED_CHANNELS


def _crop(image: np.ndarray, left: int, top: int, flipped: bool, border: Border, out: np.ndarray) -> None:
    part = _part(image, left, top, out.shape[1], out.shape[0], border)
    if flipped:
        cv2.flip(part, 1, dst=out)
    else:
        out[:] = part


def _part(image: np.ndarray, left: int, top: int, width: int, height: int, border: Border) -> np.ndarray:
    """The crop, with what lies outside the picture filled in."""
    inner = image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    if inner.shape[:2] == (height, width):
        return inner
    if not inner.size:  # a shift has led wholly outside, and OpenCV extends no empty picture
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        nearest = image[rows.clip(0, len(image) - 1)[:, None], columns.clip(0, image.shape[1] - 1)]
        return nearest if border == "replicate" else np.zeros_like(nearest)
    before_y, before_x = max(-top, 0), max(-left, 0)
    after_y, after_x = height - before_y - inner.shape[0], width - before_x - inner.shape[1]
    return cv2.copyMakeBorder(inner, before_y, after_y, before_x, after_x, CV_BORDERS[border])
