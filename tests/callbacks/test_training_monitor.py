"""History: one record an epoch, valid JSON whatever happens, and a picture of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from callbacks.training_monitor import best_epoch, both_stages, draw, line, write

HISTORY = [
    {"epoch": 1, "step": 5, "lr": 0.1, "train/loss": 2.0, "val/loss": 1.5, "train/top1": 0.3, "val/top1": 0.4},
    {"epoch": 2, "step": 10, "lr": 0.1, "train/loss": 1.0, "val/loss": 1.2, "train/top1": 0.6, "val/top1": 0.5},
    {"epoch": 3, "step": 15, "lr": 0.01, "train/loss": None, "val/loss": 1.4, "train/top1": 0.7, "val/top1": 0.5},
]


def test_the_file_is_json_and_replaced_as_a_whole(tmp_path: Path) -> None:
    write(HISTORY[:1], tmp_path / "history.json")
    write(HISTORY, tmp_path / "history.json")
    assert json.loads((tmp_path / "history.json").read_text()) == HISTORY
    assert [path.name for path in tmp_path.iterdir()] == ["history.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write([{"epoch": 1, "train/loss": float("nan")}], tmp_path / "history.json")


def test_the_best_epoch_is_the_first_of_equals() -> None:
    assert best_epoch(HISTORY) == 2
    assert best_epoch([{**record, "val/top1": None} for record in HISTORY]) == 2  # by loss then
    assert best_epoch([{"epoch": 1, "train/loss": 1.0}]) is None


def test_the_line_of_an_epoch() -> None:
    assert line(HISTORY[0], 40) == "epoch  1/40  loss 2.0000 / 1.5000  top-1 30.0 / 40.0 %  lr 0.1"
    assert line({"epoch": 7, "step": 1, "lr": 0.1}, None) == "epoch 7  lr 0.1"
    assert np.isnan(both_stages(HISTORY[2], "loss")[0])


@pytest.mark.parametrize("records", [1, 3])
def test_the_picture_shows_something(tmp_path: Path, records: int) -> None:
    draw(HISTORY[:records], tmp_path / "history.png")
    pixels = np.asarray(Image.open(tmp_path / "history.png").convert("RGB"))
    assert pixels.shape[0] >= 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
