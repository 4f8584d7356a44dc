"""How good boxes are: average precision against those that are known to be there."""

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detection.boxes import Boxes

OVERLAP = 0.5  # intersection over union, from which a box is of an object
BINS = 3  # of sizes, all of the same ratio, unless all objects have one size


@dataclass(frozen=True)
class Score:
    """Average precision.

    Args:
        mean: over the classes that are there, 0 to 1; None if there is no object.
        classes: of each of those, by name.
        sides: least and greatest side of objects in pixels, the number of objects and their mean average precision;
            objects of other sizes and boxes on them count neither way there, other boxes do.
        objects: their number.
        found: how many have a box of their class on them.
        boxes: number of all boxes.
    """

    mean: float | None
    classes: dict[str, float]
    sides: list[tuple[float, float, int, float]]
    objects: int
    found: int
    boxes: int


def known_boxes(file: Path, classes: list[str]) -> dict[str, Boxes]:
    """What ``tools/paste.py`` and others say is in pictures, by the name of the picture's file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it says something else, or of a picture twice, a box has no area, or a class is not among
            ``classes``.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file; tools/paste.py makes pictures and one that says what is in them")
    try:
        pictures = json.loads(file.read_text(encoding="utf-8"))["pictures"]
        listed = {
            each["file"]: ([box["box"] for box in each["boxes"]], [box["class"] for box in each["boxes"]])
            for each in pictures
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not say what is in pictures ({error}); see docs/detection.md") from error
    if len(listed) < len(pictures):
        raise ValueError(f"{file} names {len(pictures)} pictures, but only {len(listed)} different files")
    for name, (corners, _) in listed.items():
        if wrong := [each for each in corners if not _is_box(each)]:
            raise ValueError(
                f"{file} has a box in {name} that is not left, top, right and bottom of an area: {wrong[0]}"
            )
    if unknown := [name for _, names in listed.values() for name in names if name not in classes]:
        raise ValueError(f"{file} names {unknown[0]}, which is no class of this network: {', '.join(classes[:12])}")
    return {
        name: Boxes(
            torch.tensor(corners, dtype=torch.float64).view(-1, 4),
            torch.tensor([classes.index(each) for each in names], dtype=torch.int64),
            torch.ones(len(names)),
        )
        for name, (corners, names) in listed.items()
    }


def score(found: list[Boxes], known: list[Boxes], classes: list[str]) -> Score:
    """Mean average precision at an intersection over union of 0.5 (COCO's, by torchmetrics), picture by picture."""
    sides = torch.cat([_sides(each) for each in known])
    if not len(sides):
        return Score(None, {}, [], objects=0, found=0, boxes=sum(map(len, found)))
    low, high = float(sides.min()), float(sides.max())
    bins = BINS if low < high else 1
    edges = [*(low * (high / low) ** (number / bins) for number in range(bins)), high]  # rounding must not lose high
    ranges = []
    for first, last in pairwise(edges):
        end = last if last < high else high + 1
        inside = [(_sides(each) >= first) & (_sides(each) < end) for each in known]
        if count := sum(int(each.sum()) for each in inside):
            ranges.append((first, last, count, _average_precision(found, known, inside)[0]))
    mean, each = _average_precision(found, known, [torch.ones(len(boxes), dtype=torch.bool) for boxes in known])
    return Score(
        mean,
        {classes[label]: value for label, value in each.items()},
        ranges,
        objects=sum(map(len, known)),
        found=sum(_found(*pair) for pair in zip(found, known, strict=True)),
        boxes=sum(map(len, found)),
    )


def _is_box(corners: object) -> bool:
    """Whether these are left, top, right and bottom of an area."""
    if not isinstance(corners, list) or len(corners) != 4:
        return False
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in corners):
        return False
    left, top, right, bottom = corners
    return left < right and top < bottom


def _average_precision(found: list[Boxes], known: list[Boxes], counted: list[Tensor]) -> tuple[float, dict[int, float]]:
    """The mean over classes and that of each, of the known boxes that are counted; the others are ignored."""
    from torchmetrics.detection import MeanAveragePrecision  # needs a package that few need

    metric = MeanAveragePrecision(iou_thresholds=[OVERLAP], class_metrics=True, backend="pycocotools")
    metric.update(
        [{"boxes": each.corners.float(), "scores": each.probabilities, "labels": each.labels} for each in found],
        [
            {"boxes": each.corners.float(), "labels": each.labels, "iscrowd": (~inside).long()}
            for each, inside in zip(known, counted, strict=True)
        ],
    )
    result = metric.compute()
    labels, values = result["classes"].reshape(-1).tolist(), result["map_per_class"].reshape(-1).tolist()
    return float(result["map"]), {label: value for label, value in zip(labels, values, strict=True) if value >= 0}


def _sides(boxes: Boxes) -> Tensor:
    """The square root of each area."""
    size = boxes.corners[:, 2:] - boxes.corners[:, :2]
    return size.prod(dim=1).sqrt()


def _found(found: Boxes, known: Boxes) -> int:
    """Number of known objects with a box of their class on them."""
    if not len(found) or not len(known):
        return 0
    on_it = (box_iou(found.corners, known.corners) >= OVERLAP) & (found.labels[:, None] == known.labels)
    return int(on_it.any(dim=0).sum())
