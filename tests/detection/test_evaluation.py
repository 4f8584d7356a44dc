"""Average precision against counts by hand, with COCO's 101 levels of recall."""

import json
from pathlib import Path

import pytest
import torch

from detection import Boxes
from detection.evaluation import known_boxes, score

NAMES = ["a", "b", "c"]


def boxes(*rows: tuple[int, int, int, int, float]) -> Boxes:
    """Left, top, side, class and probability of each."""
    corners = [[left, top, left + side, top + side] for left, top, side, _, _ in rows]
    return Boxes(
        torch.tensor(corners, dtype=torch.float64).view(-1, 4),
        torch.tensor([row[3] for row in rows], dtype=torch.int64),
        torch.tensor([row[4] for row in rows], dtype=torch.float32),
    )


TWO = boxes((0, 0, 40, 0, 1), (100, 0, 40, 0, 1))


@pytest.mark.parametrize(
    ("found", "known", "mean", "count"),
    [
        pytest.param([TWO], [TWO], 1.0, 2, id="all"),
        pytest.param([boxes((0, 0, 40, 0, 0.9))], [TWO], 51 / 101, 1, id="one of two: recall 0 to 0.5"),
        pytest.param([boxes((0, 0, 40, 1, 0.9))], [TWO], 0.0, 0, id="of another class"),
        pytest.param([boxes()], [TWO], 0.0, 0, id="none"),
        pytest.param([TWO, boxes()], [TWO, boxes()], 1.0, 2, id="a picture without objects"),
        pytest.param([boxes((10, 0, 40, 0, 0.9))], [boxes((0, 0, 40, 0, 1))], 1.0, 1, id="overlap 0.6"),
        pytest.param([boxes((14, 0, 40, 0, 0.9))], [boxes((0, 0, 40, 0, 1))], 0.0, 0, id="overlap 0.48"),
        pytest.param(
            [boxes((60, 60, 40, 0, 0.9), (0, 0, 40, 0, 0.8))], [boxes((0, 0, 40, 0, 1))], 0.5, 1, id="a false one first"
        ),
        pytest.param(
            [boxes((60, 60, 40, 0, 0.7), (0, 0, 40, 0, 0.8))], [boxes((0, 0, 40, 0, 1))], 1.0, 1, id="a false one last"
        ),
        pytest.param(
            [boxes((0, 0, 40, 0, 0.9), (1, 0, 40, 0, 0.8))], [boxes((0, 0, 40, 0, 1))], 1.0, 1, id="two on one object"
        ),
        pytest.param(
            [boxes((0, 0, 40, 0, 0.9)), boxes((0, 0, 40, 2, 0.9))],
            [boxes((0, 0, 40, 0, 1)), boxes((0, 0, 40, 0, 1), (50, 50, 40, 2, 1))],
            (51 / 101 + 0) / 2,
            1,
            id="mean over the classes that are there",
        ),
    ],
)
def test_average_precision(found, known, mean, count):
    pytest.importorskip("pycocotools")
    result = score(found, known, NAMES)
    assert result.mean == pytest.approx(mean, abs=1e-5)
    assert result.found == count
    assert result.objects == sum(map(len, known))
    assert result.boxes == sum(map(len, found))


def test_by_class_and_by_size():
    pytest.importorskip("pycocotools")
    known = [boxes((0, 0, 10, 0, 1), (50, 50, 10, 1, 1)), boxes((0, 0, 30, 0, 1), (100, 100, 80, 0, 1))]
    found = [boxes((0, 0, 10, 0, 0.9)), boxes((0, 0, 30, 0, 0.8), (300, 300, 5, 0, 0.1))]
    result = score(found, known, NAMES)
    assert result.classes == pytest.approx({"a": 67 / 101, "b": 0.0}, abs=1e-5)  # two of three: recall 0 to 0.66
    assert [(round(low, 3), round(high, 3), count) for low, high, count, _ in result.sides] == [
        (10, 20, 2),
        (20, 40, 1),
        (40, 80, 1),
    ]
    assert [value for *_, value in result.sides] == pytest.approx([0.5, 1.0, 0.0], abs=1e-5)


def test_half_an_overlap_is_enough():
    pytest.importorskip("pycocotools")
    tall, square = (
        Boxes(torch.tensor([[0.0, 0, 20, bottom]], dtype=torch.float64), torch.tensor([0]), torch.ones(1))
        for bottom in (40, 20)
    )
    result = score([tall], [square], NAMES)
    assert (result.mean, result.found) == (pytest.approx(1, abs=1e-5), 1)


def test_a_class_without_objects_has_no_average_precision():
    pytest.importorskip("pycocotools")
    assert score([boxes((0, 0, 40, 1, 0.9))], [TWO], NAMES).classes == {"a": 0.0}


def test_every_object_is_in_one_range_of_sizes():
    pytest.importorskip("pycocotools")
    narrow = Boxes(torch.tensor([[0.0, 0, 10, 40]], dtype=torch.float64), torch.tensor([0]), torch.ones(1))
    assert score([narrow], [narrow], NAMES).sides == [(20, 20, 1, pytest.approx(1, abs=1e-5))]  # of a square as large
    same = score([TWO], [TWO], NAMES).sides
    assert same == [(40, 40, 2, pytest.approx(1, abs=1e-5))]
    least, greatest = 11693, 60887  # low * (high / low) of their roots is less than high, in float64
    assert least**0.5 * (greatest**0.5 / least**0.5) < greatest**0.5
    corners = torch.tensor([[0, 0, least, 1], [0, 5, greatest, 6]], dtype=torch.float64)
    sides = score([TWO], [Boxes(corners, torch.tensor([0, 0]), torch.ones(2))], NAMES).sides
    assert sum(count for _, _, count, _ in sides) == 2


def test_what_is_known_is_read(tmp_path: Path):
    file = tmp_path / "boxes.json"
    content = [{"file": "x.png", "boxes": [{"box": [1, 2, 3, 4], "class": "c"}]}, {"file": "y.png", "boxes": []}]
    file.write_text(json.dumps({"pictures": content}))
    known = known_boxes(file, NAMES)
    assert known["x.png"].corners.tolist() == [[1, 2, 3, 4]]
    assert known["x.png"].labels.tolist() == [2]
    assert len(known["y.png"]) == 0
    with pytest.raises(ValueError, match="boxes.json names c, which is no class of this network: a, b"):
        known_boxes(file, ["a", "b"])


def test_a_picture_that_is_named_twice(tmp_path: Path):
    pictures = [{"file": "x.png", "boxes": []}, {"file": "x.png", "boxes": [{"box": [1, 2, 3, 4], "class": "c"}]}]
    (tmp_path / "boxes.json").write_text(json.dumps({"pictures": pictures}))
    with pytest.raises(ValueError, match="names 2 pictures, but only 1 different files"):
        known_boxes(tmp_path / "boxes.json", NAMES)


@pytest.mark.parametrize("text", ["", "[]", '{"pictures": [{"file": "x.png"}]}'])
def test_a_file_that_says_nothing_of_pictures(tmp_path: Path, text: str):
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(ValueError, match="does not say what is in pictures"):
        known_boxes(tmp_path / "boxes.json", NAMES)


@pytest.mark.parametrize(
    "corners",
    [
        [1, 2, 1, 4],
        [1, 2, 3, 2],
        [3, 2, 1, 4],
        [1, 2, 3],
        [],
        [1, 2, 3, 4, 5],
        [1, 2, 3, "4"],
        [1, 2, 3, None],
        [1, 2, 3, float("nan")],
        [1, 2, float("inf"), 4],
        {"left": 1},
        None,
    ],
)
def test_what_is_no_box_is_refused(tmp_path: Path, corners: object):
    right = {"box": [1, 2, 3, 4], "class": "a"}
    content = [{"file": "x.png", "boxes": [right, {"box": corners, "class": "a"}]}]
    (tmp_path / "boxes.json").write_text(json.dumps({"pictures": content}))
    with pytest.raises(ValueError, match="has a box in x.png that is not left, top, right and bottom of an area: "):
        known_boxes(tmp_path / "boxes.json", NAMES)


@pytest.mark.parametrize("name", [None, 1, ["a"]])
def test_a_class_that_is_no_text(tmp_path: Path, name: object):
    content = [{"file": "x.png", "boxes": [{"box": [1, 2, 3, 4], "class": each} for each in ("b", name)]}]
    (tmp_path / "boxes.json").write_text(json.dumps({"pictures": content}))
    with pytest.raises(ValueError, match="which is no class of this network"):
        known_boxes(tmp_path / "boxes.json", NAMES)


@pytest.mark.parametrize("found", [boxes(), boxes((0, 0, 40, 0, 0.9))])
def test_pictures_without_objects(found: Boxes):
    result = score([found, found], [boxes(), boxes()], NAMES)
    assert (result.mean, result.classes, result.sides) == (None, {}, [])
    assert (result.objects, result.found, result.boxes) == (0, 0, 2 * len(found))


def test_no_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="tools/paste.py makes"):
        known_boxes(tmp_path / "boxes.json", NAMES)
