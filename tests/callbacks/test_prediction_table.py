"""The table of predictions: a line for each picture, in the order of the split, with its file."""

import csv
from pathlib import Path
from types import SimpleNamespace

import torch

import callbacks as cb


def test_each_line_names_its_picture(tmp_path: Path) -> None:
    files = ["b/0.png", "a/0.png", "ä/1, 2.png"]
    trainer = SimpleNamespace(
        **{"world_size": 1, "is_global_zero": True, "default_root_dir": tmp_path},
        predict_dataloaders=SimpleNamespace(batch_sampler=[[2, 0], [1]]),
        datamodule=SimpleNamespace(classes=["a", "b", "ä"], files={"test": files}.get),
    )
    table = cb.PredictionTable()
    table.on_predict_start(trainer, None)
    batches = [([2, 1], [[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]]), ([0], [[0.6, 0.3, 0.1]])]
    for number, (labels, probabilities) in enumerate(batches):
        batch = None, torch.tensor(labels)
        table.on_predict_batch_end(trainer, None, torch.tensor(probabilities), batch, number)
    table.on_predict_end(trainer, None)
    with (tmp_path / "report/predictions.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [list(line.values()) for line in lines] == [
        ["0", "b", "a", "0.500000", "b/0.png"],
        ["1", "a", "a", "0.600000", "a/0.png"],
        ["2", "ä", "ä", "0.700000", "ä/1, 2.png"],
    ]
