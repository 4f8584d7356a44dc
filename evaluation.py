"""What a test found: scores of the classes, confusions, and the mistakes that the network was surest of."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from callbacks.class_report import MOST, Scores, counted, with_columns
from callbacks.prediction_store import Predictions
from pictures import tested_pictures

MISTAKES = 12  # of a run
PAIRS = 10  # of classes
PIXELS = 128  # of a picture's longer side, at most
SMALL = 20  # classes whose confusions are a table; a picture shows those of more


@dataclass
class Mistake:
    """A picture that was named wrongly: PNG as base64, both names, the probability of both, and its file or row."""

    picture: str
    true: str
    said: str
    probability: float
    of_true: float
    file: str


@dataclass
class Tested:
    """What the test of a run says: scores of the classes, confusions ``(C, C or C + 1)``, the most frequent of them."""

    names: list[str]
    predictable: list[str]
    scores: list[tuple[str, float, float, float, int]]
    confusion: list[list[int]]
    pairs: list[tuple[str, str, int, int]]
    wrong: int
    heat_map: str | None
    mistakes: list[Mistake] = field(default_factory=list)


def evaluate(found: Predictions) -> Tested:
    """Scores and confusions; a probability that is no number names no class."""
    classes = len(found.names)
    confusion = counted(None, torch.from_numpy(found.probabilities), torch.from_numpy(found.labels)).numpy()
    shown, predictable = with_columns(confusion, found.names)
    errors = shown.copy()
    np.fill_diagonal(errors, 0)
    pairs = []
    places = np.flatnonzero(errors)
    for place in places[np.argsort(-errors.ravel()[places], kind="stable")[:PAIRS]]:
        true, other = np.unravel_index(place, errors.shape)
        pairs.append((found.names[true], predictable[other], int(errors[true, other]), int(confusion[true].sum())))
    heat_map = png(shaded(shown)) if SMALL < classes <= MOST else None
    scores = Scores.of(confusion).rows(found.names)
    table = shown.tolist() if classes <= SMALL else []
    return Tested(found.names, predictable, scores, table, pairs, int(errors.sum()), heat_map)


def shaded(confusion: np.ndarray) -> Image.Image:
    """A pixel for each pair of classes, on any background; the square root lets rare confusions show."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    pixels = np.empty((*confusion.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = (47, 111, 208), np.round(255 * np.sqrt(shares))
    return Image.fromarray(pixels)


def mistakes(run: Path, found: Predictions) -> list[Mistake]:
    """The wrongly named pictures that the network was surest of."""
    chosen = found.surest_mistakes()[:MISTAKES]
    if not len(chosen):
        return []
    shown = []
    pictures, files = tested_pictures(run, found.rows[chosen].tolist(), found.split)
    for place, pixels, file in zip(chosen, pictures, files, strict=True):
        image = Image.fromarray(pixels)
        image.thumbnail((PIXELS, PIXELS))
        label, said = int(found.labels[place]), int(found.probabilities[place].argmax())
        sureness, of_true = (float(found.probabilities[place, each]) for each in (said, label))
        shown.append(Mistake(png(image), found.names[label], found.names[said], sureness, of_true, file))
    return shown


def png(image: Image.Image) -> str:
    """The picture as base64 text."""
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
