"""What a network says of each picture."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.prediction_store import of_all_processes
from callbacks.whole_file import whole_file

Row = tuple[int, int, int, float]


class PredictionTable(Callback):
    """Writes ``<run>/report/predictions.csv``: row of the split, label, predicted class and its probability.

    And the picture's file, as it is called in the folder of the raw ones, where the packed set names it.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin from nothing, and learn which rows each batch holds."""
        self.rows: list[Row] = []
        self.batches = list(trainer.predict_dataloaders.batch_sampler)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the most probable class of each picture."""
        columns = [column.tolist() for column in (batch[1], *outputs.max(dim=1)[::-1])]
        self.rows += zip(self.batches[batch_idx], *columns, strict=True)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the processes' rows together and write them in the split's order."""
        parts: list[list[Row]] = of_all_processes(trainer, self.rows)
        if not trainer.is_global_zero:
            return
        names = getattr(trainer.datamodule, "classes", None)
        files = trainer.datamodule.files("test") if names else []  # else a bare loader
        path = Path(trainer.default_root_dir) / "report/predictions.csv"
        with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "label", "predicted", "probability", "file"])
            for row, label, predicted, probability in sorted(row for part in parts for row in part):
                classes = (names[label], names[predicted]) if names else (label, predicted)
                writer.writerow([row, *classes, f"{probability:.6f}", files[row] if files else ""])
        print(f"predictions: {path}")
