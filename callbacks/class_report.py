"""What a test found out about each class."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from pytorch_lightning import Callback, LightningModule, Trainer
from rich import get_console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from callbacks.run_folder import METRICS
from callbacks.whole_file import whole_file, write_json

NOT_FINITE = "not finite"
MOST = 2000  # classes of which a whole matrix is written and drawn; of more it would take gigabytes


@dataclass
class Scores:
    """Precision, recall and F1 of each class, 0 where undefined, and the number of its samples."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray

    @classmethod
    def of(cls, confusion: np.ndarray) -> "Scores":
        """Scores of a confusion matrix ``(C, C + 1)`` with true classes as rows."""
        hits = confusion.diagonal()
        support = confusion.sum(axis=1)
        predicted = confusion.sum(axis=0)[:-1]
        return cls(
            precision=hits / np.maximum(predicted, 1),
            recall=hits / np.maximum(support, 1),
            f1=2 * hits / np.maximum(predicted + support, 1),
            support=support,
        )

    def rows(self, names: Sequence[str]) -> list[tuple[str, float, float, float, int]]:
        """Name, precision, recall, F1 and support of each class."""
        columns = (self.precision, self.recall, self.f1, self.support)
        return list(zip(names, *(column.tolist() for column in columns), strict=True))


class ClassReport(Callback):
    """Writes a test's report into ``<run>/report`` and prints the scores of the classes, or of the ten worst of many.

    The files are ``per_class.csv``, ``confusion_matrix.csv`` and ``.png`` (rows are true classes, columns predicted
    ones) and ``metrics.json``; of more than 2000 classes, ``confusions.csv`` has the counts that are not 0. A sample
    with a logit that is not finite is predicted as no class: it has a column of its own, there only if needed, so
    accuracy is the same as in ``TopKAccuracy``. The last line printed is ``test top-1 = 0.9876``. Class names come from
    the datamodule's ``classes``, else they are numbers.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin from nothing, and move behind the progress bar, which would else end below the last line."""
        self._confusion: Tensor | None = None
        trainer.callbacks = sorted(trainer.callbacks, key=lambda callback: callback is self)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch; nothing waits for the device."""
        self._confusion = counted(self._confusion, outputs["logits"], outputs["labels"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add up the processes."""
        if self._confusion is not None:
            self._confusion = trainer.strategy.reduce(self._confusion, reduce_op="sum")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write and print; only now has Lightning printed its own table."""
        if self._confusion is None or not trainer.is_global_zero:
            return
        confusion = self._confusion.cpu().numpy()
        names = class_names(trainer, len(confusion))
        metrics = {name: v.item() for name, v in trainer.callback_metrics.items() if name.startswith("test/")}

        run = Path(trainer.default_root_dir)
        write_scores(confusion, names, run / "report/per_class.csv")
        matrix, predictable = with_columns(confusion, names)
        if len(names) <= MOST:
            write_confusion(matrix, names, predictable, run / "report/confusion_matrix.csv")
            with whole_file(run / "report/confusion_matrix.png") as partial:
                drawn_confusion(matrix, names, predictable).savefig(partial, format="png", bbox_inches="tight")
        else:
            write_pairs(matrix, names, predictable, run / "report/confusions.csv")
        write_metrics(metrics, int(confusion.sum()), run / METRICS)  # last: it stands for a finished test

        get_console().print(table(Scores.of(confusion).rows(names)))
        if "test/top1" in metrics:
            print(f"test top-1 = {metrics['test/top1']:.4f}", flush=True)


def counted(confusion: Tensor | None, logits: Tensor, labels: Tensor) -> Tensor:
    """The confusion matrix int64 ``(C, C + 1)`` with a batch added; the last column: logits not finite."""
    classes = logits.shape[1]
    if confusion is None:
        confusion = torch.zeros(classes, classes + 1, dtype=torch.int64, device=logits.device)
    predicted = logits.argmax(dim=1).where(logits.isfinite().all(dim=1), classes)
    return confusion.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)


def class_names(trainer: Trainer, classes: int) -> list[str]:
    """Those of the datamodule, or numbers."""
    return list(getattr(trainer.datamodule, "classes", None) or map(str, range(classes)))


def with_columns(confusion: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The matrix ``(C, C or C + 1)`` and the names of its columns: one for logits not finite only if there are any."""
    columns = [*names, NOT_FINITE] if confusion[:, -1].any() else list(names)
    return confusion[:, : len(columns)], columns


def write_metrics(metrics: dict[str, float], samples: int, path: Path) -> None:
    """The metrics of the test, null where not finite, and the number of samples."""
    content = {"samples": samples, **{name: v if math.isfinite(v) else None for name, v in metrics.items()}}
    write_json(content, path)


def write_scores(confusion: np.ndarray, names: Sequence[str], path: Path) -> None:
    """The scores of each class, their plain and their support-weighted mean, and the accuracy."""
    scores = Scores.of(confusion)
    samples = scores.support.sum()
    means = np.stack([scores.precision, scores.recall, scores.f1])
    rows = [
        *scores.rows(names),
        ("macro avg", *means.mean(axis=1), samples),
        ("weighted avg", *(means @ scores.support / samples), samples),
    ]
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "precision", "recall", "f1", "support"])
        for name, precision, recall, f1, support in rows:
            writer.writerow([name, f"{precision:.6f}", f"{recall:.6f}", f"{f1:.6f}", support])
        writer.writerow(["accuracy", "", "", f"{confusion.diagonal().sum() / samples:.6f}", samples])


def write_confusion(matrix: np.ndarray, names: Sequence[str], predictable: Sequence[str], path: Path) -> None:
    """Counts: a row for each true class, a column for each predicted one."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true class", *predictable])
        writer.writerows([name, *counts] for name, counts in zip(names, matrix.tolist(), strict=True))


def write_pairs(matrix: np.ndarray, names: Sequence[str], predictable: Sequence[str], path: Path) -> None:
    """The counts that are not 0, each with its true and its predicted class."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true class", "predicted class", "samples"])
        for row, column in zip(*(places.tolist() for places in matrix.nonzero()), strict=True):
            writer.writerow([names[row], predictable[column], matrix[row, column]])


def drawn_confusion(matrix: np.ndarray, names: Sequence[str], predictable: Sequence[str]) -> Figure:
    """The share of each true class; counts up to 20 classes, names up to 50."""
    classes = len(names)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(6.0, 2 + 0.42 * classes), 14.0)
    figure = Figure(figsize=(side + 0.8, side), dpi=100, layout="compressed")
    axes = figure.subplots()
    # the square root lets rare confusions show
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if classes <= 50:
        axes.set_xticks(range(len(predictable)), predictable, rotation=90, parse_math=False)
        axes.set_yticks(range(classes), names, parse_math=False)
    if classes <= 20:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if shares[row, column] > 0.3 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=9)
    bar = figure.colorbar(image, aspect=40, pad=0.02, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.set_label("share of the true class")
    return figure


def table(rows: list[tuple[str, float, float, float, int]]) -> Table:
    """Scores in percent, of every class or of the ten worst by F1."""
    title = "Classes"
    if len(rows) > 20:
        title = f"The ten worst of {len(rows)} classes"
        rows = sorted((row for row in rows if row[-1] > 0), key=lambda row: row[3])[:10]
    printed = Table(title=title)
    printed.add_column("class", overflow="fold")
    for heading in ("precision %", "recall %", "F1 %", "samples"):
        printed.add_column(heading, justify="right")
    for name, precision, recall, f1, support in rows:
        printed.add_row(Text(name), f"{100 * precision:.1f}", f"{100 * recall:.1f}", f"{100 * f1:.1f}", str(support))
    return printed
