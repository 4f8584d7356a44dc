"""Made pictures with known contents: objects of a data set, pasted at several sizes onto made backgrounds."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.samples import Samples

SIZE = (240, 320)  # height and width of a picture in pixels
TRIES = 50  # to find a free place for an object


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    Args:
        picture: uint8 RGB ``(H, W, 3)``.
        corners: left, top, right, bottom of each object in pixels, int64 ``(N, 4)``.
        labels: int64 ``(N,)``.
    """

    picture: np.ndarray
    corners: np.ndarray
    labels: np.ndarray


def scene(objects: Samples, rng: np.random.Generator, sides: tuple[int, int], most: int, opaque: bool) -> Scene:
    """Up to ``most`` objects, one at least, which do not overlap, on a background of their own.

    Args:
        objects: square pictures, uint8 ``(N, S, S, 3)``, and their labels.
        sides: least and greatest side of a pasted object in pixels; between them all ratios are equally likely.
        opaque: whether a picture is pasted as it is; otherwise as ink, where it is bright.
    """
    picture, corners, labels = background(rng), [], []
    for row in rng.integers(len(objects), size=rng.integers(1, most + 1)):
        side = round(float(np.exp(rng.uniform(*np.log(sides)))))
        for _ in range(TRIES):
            top, left = (int(rng.integers(0, length - side + 1)) for length in SIZE)
            box = left, top, left + side, top + side
            if not any(_overlap(box, other) for other in corners):
                _paste(picture[top : top + side, left : left + side], objects.images[row], rng, opaque)
                corners.append(box)
                labels.append(objects.labels[row])
                break
    return Scene(picture, np.array(corners, np.int64).reshape(-1, 4), np.array(labels, np.int64))


def background(rng: np.random.Generator) -> np.ndarray:
    """A gradient of four colours with smooth noise of two grains and some strokes: uint8 ``(H, W, 3)``."""
    high, wide = SIZE[0] // 2, SIZE[1] // 2  # enlarged at the end, which is faster and makes edges soft
    picture = cv2.resize(rng.uniform(20, 235, (2, 2, 3)), (wide, high), interpolation=cv2.INTER_LINEAR)
    for grain, strength in ((rng.integers(3, 8), 30), (rng.integers(12, 60), rng.uniform(0, 25))):
        noise = rng.normal(0, strength, (grain, grain * wide // high, 3))
        picture += cv2.resize(noise, (wide, high), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(0, 7)):
        start, end = rng.integers(0, (wide, high), (2, 2)).tolist()
        colour = rng.uniform(0, 255, 3).tolist()
        if rng.random() < 0.5:
            cv2.line(picture, start, end, colour, int(rng.integers(1, 6)), cv2.LINE_AA)
        else:
            cv2.circle(picture, start, int(rng.integers(3, 20)), colour, int(rng.integers(1, 4)), cv2.LINE_AA)
    return cv2.resize(picture, (2 * wide, 2 * high), interpolation=cv2.INTER_LINEAR)


def windows(made: Scene, rng: np.random.Generator, size: int, on: int, beside: int, away: int) -> Samples:
    """Windows to train a classifier with: objects, parts of objects, and background, whose label is -1.

    A window is of an object where their intersection over union is at least 0.6, and is background where that is at
    most 0.45 for all objects; none is drawn between.

    Args:
        made: the picture.
        size: of the windows given, in pixels; they are cut out at several sizes and scaled to it.
        on: windows on each object.
        beside: windows on parts of each object, or too large for it.
        away: windows anywhere that are background.
    """
    found, labels = [], []
    objects = list(zip(made.corners.tolist(), made.labels.tolist(), strict=True))
    wanted = [(box, label, 1.25) for box, label in objects] * on + [(box, -1, 2.0) for box, _ in objects] * beside
    for box, label, most in wanted + [(None, -1, 0.0)] * away:
        for _ in range(TRIES):
            window = _window_near(rng, box, most) if box else _window_anywhere(rng)
            if label < 0 and max(_overlap(window, other) for other in made.corners.tolist()) > 0.45:
                continue
            if label >= 0 and _overlap(window, box) < 0.6:
                continue
            left, top, right, bottom = window
            if left < 0 or top < 0 or right > SIZE[1] or bottom > SIZE[0]:
                continue
            cut = made.picture[top:bottom, left:right]
            found.append(cv2.resize(cut, (size, size), interpolation=_interpolation(len(cut), size)))
            labels.append(label)
            break
    return Samples(np.array(found, np.uint8).reshape(-1, size, size, 3), np.array(labels, np.int64))


def _paste(place: np.ndarray, picture: np.ndarray, rng: np.random.Generator, opaque: bool) -> None:
    """Write a picture into a square place of another size."""
    side = len(place)
    scaled = cv2.resize(picture, (side, side), interpolation=_interpolation(len(picture), side))
    if opaque:
        place[:] = scaled
        return
    mean = place.mean()
    ink = rng.uniform(0, mean - 70, 3) if mean > 128 else rng.uniform(mean + 70, 255, 3)
    cover = scaled.max(axis=2, keepdims=True).astype(np.float32) / 255
    place[:] = np.round(place + (ink.astype(np.float32) - place) * cover)


def _interpolation(before: int, after: int) -> int:
    return cv2.INTER_AREA if after < before else cv2.INTER_CUBIC


def _window_near(rng: np.random.Generator, box: Sequence[int], most: float) -> tuple[int, int, int, int]:
    """A square about as large as a box and about there, up to ``most`` times as large or small."""
    side = box[2] - box[0]
    mine = round(side * most ** rng.uniform(-1, 1))
    left, top = np.round(np.array(box[:2]) + (side - mine) / 2 + rng.uniform(-0.6, 0.6, 2) * (most - 1) * side).astype(
        int
    )
    return int(left), int(top), int(left) + mine, int(top) + mine


def _window_anywhere(rng: np.random.Generator) -> tuple[int, int, int, int]:
    side = int(rng.integers(24, SIZE[0] // 2))
    top, left = (int(rng.integers(0, length - side + 1)) for length in SIZE)
    return left, top, left + side, top + side


def _overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """Intersection over union."""
    wide, high = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    if wide <= 0 or high <= 0:
        return 0.0
    area = wide * high
    return area / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - area)
