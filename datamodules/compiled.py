"""Loops over pixels, compiled by numba where it is installed; crops.py has the same in plain Python."""

import numba
import numpy as np


def _compiled(function):
    """Kept in a cache, if there is a folder that this user can write: compiling takes seconds."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither beside the code nor in the home folder
        return numba.njit(nogil=True)(function)


@_compiled
def crop(source, rows, places, left, top, flipped, black, out):
    """See ``crops.crop``; pictures are ``(N, H, W * 3)``."""
    height, width = out.shape[1], out.shape[2] // 3
    for i in range(len(rows)):
        for y in range(height):
            _line(source[rows[i]], left[i], top[i] + y, width, flipped[i], black, out[places[i], y])


@_compiled
def crop_normalized(source, rows, places, left, top, flipped, black, shift, scale, out):
    """The same, with each value normalised into float32."""
    height, width = out.shape[1], out.shape[2] // 3
    line = np.empty(3 * width, np.uint8)
    for i in range(len(rows)):
        for y in range(height):
            _line(source[rows[i]], left[i], top[i] + y, width, flipped[i], black, line)
            _normalize(line, shift[y % len(shift)], scale, out[places[i], y])


@_compiled
def normalize(images, shift, scale, out):
    """See ``crops.normalize``; pictures are ``(B, h, w * 3)``."""
    for i in range(len(images)):
        for y in range(images.shape[1]):
            _normalize(images[i, y], shift[y % len(shift)], scale, out[i, y])


@numba.njit(nogil=True, inline="always")
def _normalize(line, shift, scale, out):
    for x in range(len(line)):
        out[x] = (np.float32(line[x]) - shift[x]) * scale[x]


@_compiled
def _line(picture, left, y, width, flipped, black, line):
    """One row of the output: pixels ``left`` to ``left + width`` of a row of the picture."""
    height, pixels = picture.shape[0], picture.shape[1] // 3
    if black and not 0 <= y < height:
        line[:] = 0
        return
    row = picture[min(max(y, 0), height - 1)]
    if not flipped and left >= 0 and left + width <= pixels:
        line[:] = row[3 * left : 3 * (left + width)]
        return
    for x in range(width):
        at = left + (width - 1 - x if flipped else x)
        if black and not 0 <= at < pixels:
            line[3 * x] = line[3 * x + 1] = line[3 * x + 2] = 0
            continue
        at = 3 * min(max(at, 0), pixels - 1)
        line[3 * x] = row[at]
        line[3 * x + 1] = row[at + 1]
        line[3 * x + 2] = row[at + 2]
