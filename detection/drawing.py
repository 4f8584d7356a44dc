"""Boxes on a picture."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detection.boxes import Boxes

SMALLEST = 480  # pixels; smaller pictures are enlarged, so that labels can be read


def drawn(picture: np.ndarray, boxes: Boxes, names: list[str], labelled: bool) -> Image.Image:
    """A picture uint8 ``(H, W, 3)`` with its boxes, a colour for each class; the most probable are drawn last.

    Args:
        names: of the classes.
        labelled: write class and probability on each.
    """
    times = max(1, -(-SMALLEST // max(picture.shape[:2])))
    image = Image.fromarray(picture.repeat(times, axis=0).repeat(times, axis=1))
    draw = ImageDraw.Draw(image)
    line = max(1, max(image.size) // 320) if labelled else 1
    font = ImageFont.load_default(max(11, max(image.size) // 45))
    for row in boxes.probabilities.argsort().tolist():
        label = int(boxes.labels[row])
        hue = label / len(names)
        colour = tuple(round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.85, 1.0))
        left, top, right, bottom = (float(value) * times for value in boxes.corners[row])
        draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=line)
        if labelled:
            text = f"{names[label]} {100 * float(boxes.probabilities[row]):.0f} %"
            where = draw.textbbox((0, 0), text, font=font)
            height = where[3] + 3
            place = left, top - height if top >= height else top
            draw.rectangle((*place, place[0] + where[2] + 4, place[1] + height), fill=colour)
            draw.text((place[0] + 2, place[1]), text, fill=(0, 0, 0), font=font)
    return image
