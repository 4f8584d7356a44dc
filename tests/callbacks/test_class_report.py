"""The report of a test against scikit-learn."""

import csv
import io
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningDataModule, Trainer
from sklearn.metrics import classification_report, confusion_matrix
from torch.utils.data import DataLoader, TensorDataset

from callbacks import ClassReport, TopKAccuracy, class_report
from callbacks.class_report import drawn_confusion, table, write_metrics
from callbacks.panels import sheet
from lightning_modules import Classifier


class Identity(Classifier):
    """Logits are the input."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, 1)
        self.net = torch.nn.Identity()


def report(logits: torch.Tensor, labels: torch.Tensor, folder: Path) -> tuple[dict[str, list[str]], np.ndarray]:
    """Rows of per_class.csv by class, and the confusion matrix."""
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[TopKAccuracy((1,)), ClassReport()],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
    )
    trainer.test(Identity(logits.shape[1]), DataLoader(TensorDataset(logits, labels), batch_size=32))
    with (folder / "report/per_class.csv").open() as file:
        rows = {name: values for name, *values in csv.reader(file)}
    with (folder / "report/confusion_matrix.csv").open() as file:
        counts = np.array([row[1:] for row in csv.reader(file)][1:], dtype=int)
    return rows, counts


@pytest.mark.parametrize("classes", [3, 25])
def test_as_scikit_learn(classes: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(0, classes - 1, (300,), generator=generator)  # the last class has no sample
    logits = torch.randn(300, classes, generator=generator) + 2 * torch.nn.functional.one_hot(labels, classes)
    logits[:, 1] -= 100  # and the second is never predicted
    rows, counts = report(logits, labels, tmp_path)
    predicted = logits.argmax(dim=1)
    np.testing.assert_array_equal(counts, confusion_matrix(labels, predicted, labels=range(classes)))
    expected = classification_report(labels, predicted, labels=range(classes), output_dict=True, zero_division=0.0)
    for name in [*map(str, range(classes)), "macro avg", "weighted avg"]:
        found = [float(value) for value in rows[name]]
        assert found == pytest.approx(
            [expected[name][s] for s in ("precision", "recall", "f1-score", "support")], abs=1e-6
        )
    accuracy = float((predicted == labels).float().mean())
    assert float(rows["accuracy"][2]) == pytest.approx(accuracy, abs=1e-6)
    metrics = json.loads((tmp_path / "report/metrics.json").read_text())
    assert metrics == {"samples": 300, "test/top1": pytest.approx(accuracy)}
    assert min(Image.open(tmp_path / "report/confusion_matrix.png").size) > 400


def test_true_classes_are_the_lines_of_the_picture() -> None:
    counts = np.array([[3, 1, 0, 0], [0, 4, 0, 0], [1, 0, 0, 1]])
    axes = drawn_confusion(counts, ["a", "b", "c"], ["a", "b", "c", "not finite"]).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25, 0, 0], [0, 1, 0, 0], [0.5, 0, 0, 0.5]])
    assert axes.yaxis_inverted()
    said = {tuple(reversed(text.get_position())): text.get_text() for text in axes.texts}
    assert said == {(0, 0): "3", (0, 1): "1", (1, 1): "4", (2, 0): "1", (2, 3): "1"}
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b", "c", "not finite"]
    formulas = ["$0_$50", "$50_$100", r"\\frac$"]
    drawn_confusion(counts[:, :3], formulas, formulas).savefig(io.BytesIO())
    sheet([np.zeros((4, 4, 3), np.uint8)], formulas[:1]).savefig(io.BytesIO())
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")


def test_of_very_many_classes_only_pairs_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_report, "MOST", 2)
    with suppress(FileNotFoundError):  # there is no matrix to read
        report(torch.eye(3)[[0, 1, 1, 1]], torch.tensor([0, 1, 2, 2]), tmp_path)
    pairs = (tmp_path / "report/confusions.csv").read_text().splitlines()
    assert pairs == ["true class,predicted class,samples", "0,0,1", "1,1,1", "2,1,2"]
    assert json.loads((tmp_path / "report/metrics.json").read_text())["test/top1"] == 0.5
    assert not list((tmp_path / "report").glob("confusion_matrix*"))


def test_the_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(torch.eye(4)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 3]), tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == "test top-1 = 0.7500"


def test_logits_that_are_not_finite_are_no_class(tmp_path: Path) -> None:
    logits = torch.eye(3)
    logits[0, 0] = float("nan")
    rows, counts = report(logits, torch.arange(3), tmp_path)
    assert counts.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert float(rows["accuracy"][2]) == pytest.approx(2 / 3, abs=1e-6)


def test_a_metric_that_is_not_finite_is_null(tmp_path: Path) -> None:
    write_metrics({"test/top1": 0.5, "test/loss": float("nan")}, 3, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"samples": 3, "test/top1": 0.5, "test/loss": None}


def test_the_ten_worst_of_many_classes_are_printed() -> None:
    rows = [(str(place), 0.5, 0.5, place / 25, 1) for place in reversed(range(25))]
    printed = table([("without a sample", 0.0, 0.0, 0.0, 0), *rows])
    assert [str(cell) for cell in printed.columns[0].cells] == [str(place) for place in range(10)]


class Fruit(LightningDataModule):
    classes = ("apple, red", "[pear]", "plum")

    def test_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.eye(3), torch.arange(3)), batch_size=2)


def test_names_of_the_datamodule_and_no_bar_below_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(
        accelerator="cpu", callbacks=[ClassReport(), TopKAccuracy((1,))], default_root_dir=tmp_path, logger=False
    )
    trainer.test(Identity(3), datamodule=Fruit())
    out = capsys.readouterr().out
    assert out.endswith("test top-1 = 1.0000\n")
    assert "[pear]" in out
    with (tmp_path / "report/confusion_matrix.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == [row[0] for row in rows[1:]] == list(Fruit.classes)


def test_processes_are_added_up(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", callbacks=[ClassReport()], default_root_dir=tmp_path, logger=False)
    trainer.strategy.reduce = lambda counts, reduce_op: counts + torch.ones_like(counts)
    trainer.test(Identity(3), datamodule=Fruit())
    with (tmp_path / "report/confusion_matrix.csv").open() as file:
        counts = np.array([row[1:] for row in csv.reader(file)][1:], dtype=int)
    assert counts.tolist() == [[2, 1, 1, 1], [1, 2, 1, 1], [1, 1, 2, 1]]
