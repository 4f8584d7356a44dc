"""Boxes and the suppression of those that overlap, against a plain loop."""

import numpy as np
import torch

from detection.boxes import Boxes, joined


def boxes(count: int, seed: int) -> Boxes:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 60, (count, 2))
    corners = np.concatenate([low, low + rng.integers(10, 50, (count, 2))], axis=1).astype(np.float64)
    return Boxes(
        torch.from_numpy(corners),
        torch.from_numpy(rng.integers(0, 3, count)),
        torch.from_numpy(rng.permutation(count).astype(np.float32) / count),
    )


def overlap(a: list[float], b: list[float]) -> float:
    pixels = [{(x, y) for x in range(int(c[0]), int(c[2])) for y in range(int(c[1]), int(c[3]))} for c in (a, b)]
    return len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1])


def test_the_more_probable_of_two_boxes_of_a_class_stays():
    found = boxes(40, seed=1)
    left, kept = found.probabilities.argsort(descending=True).tolist(), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [
            row
            for row in left
            if found.labels[row] != found.labels[best]
            or overlap(found.corners[row].tolist(), found.corners[best].tolist()) <= 0.3
        ]
    result = found.without_overlaps(0.3)
    assert 3 < len(kept) < 40
    assert torch.equal(result.corners, found.corners[kept])
    assert torch.equal(result.labels, found.labels[kept])
    assert torch.equal(result.probabilities, found.probabilities[kept])


def test_no_box_at_all():
    assert len(boxes(0, seed=0).without_overlaps(0.3)) == 0


def test_joined_in_order():
    both = joined([boxes(3, seed=1), boxes(2, seed=2)])
    assert torch.equal(both.corners[3:], boxes(2, seed=2).corners)
    assert torch.equal(both.labels[:3], boxes(3, seed=1).labels)
