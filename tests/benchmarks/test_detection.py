"""The benchmark of detection: both sides search, other boxes are an error, networks are told apart."""

import pytest
import torch

from benchmarks import detection
from detection import Boxes
from lightning_modules import UnpaddedNet


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_for_each_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "ROUNDS", 1)
    torch.manual_seed(0)
    predictors = {64: detection.random_weights(UnpaddedNet(detection.CLASSES, 64, (4, 4), 8))}
    _, _, row = detection.speeds(predictors, [detection.Case(64, 16, 3.0)])
    window, step, factor, windows, boxes, one_by_one, convolution, times, difference = cells(row)
    assert (window, step, factor) == ("64", "16", "3.0")
    assert int(windows) == ((350 - 64) // 16 + 1) * ((262 - 64) // 16 + 1) + ((117 - 64) // 16 + 1) * (
        (87 - 64) // 16 + 1
    )
    assert 0 < int(boxes) <= int(windows) * detection.CLASSES
    assert float(one_by_one.split()[0]) > 0
    assert float(convolution.split()[0]) > 0
    assert float(times.strip("* ").split("*")[0]) > 0
    assert float(difference) < 1e-4


def test_other_boxes_are_an_error() -> None:
    boxes, moved = (
        Boxes(torch.tensor([[left, 0.0, 8.0, 8.0]]), torch.tensor([1]), torch.tensor([0.9])) for left in (0.0, 1.0)
    )
    with pytest.raises(AssertionError):
        detection.must_agree((boxes, boxes), (boxes, moved))
    surer = Boxes(boxes.corners, boxes.labels, torch.tensor([0.75]))
    assert detection.must_agree((boxes, boxes), (surer, surer)) == pytest.approx(0.15)


def test_networks_are_told_apart() -> None:
    _, _, exact, padded = detection.exactness(detection.NETWORKS[:2])
    assert cells(exact)[2].startswith("exact: differs by")
    assert cells(exact)[2].endswith("stride 4")
    assert "net.0.0 pads what it is given" in cells(padded)[2]
