"""What a generator makes of the same noise as it learns."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from torchvision.utils import make_grid

from callbacks.panels import log_pictures, step_of
from callbacks.step_seed import run_seed
from callbacks.whole_file import dispensable_file


class Montage(Callback):
    """Writes ``montages/epoch-001-batch-00025.png`` into the run's folder, and gives it to the loggers.

    The module has ``samples(count, seed)``, pictures RGB uint8 ``(N, H, W, 3)``.

    Args:
        side: pictures in a row, and rows.
        first_epochs: so many epochs are looked at often.
        every_batches: batches from one montage to the next in the first epochs.
        later_every_batches: the same in later epochs; the end of an epoch always has one.
    """

    def __init__(
        self, side: int = 16, first_epochs: int = 10, every_batches: int = 25, later_every_batches: int = 100
    ) -> None:
        if min(side, every_batches, later_every_batches) < 1:
            raise ValueError("side, every_batches and later_every_batches must be at least 1")
        self.side, self.first_epochs = side, first_epochs
        self.every_batches, self.later_every_batches = every_batches, later_every_batches

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the run's seed."""
        self.seed = run_seed()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the generator if it is time."""
        every = self.every_batches if trainer.current_epoch < self.first_epochs else self.later_every_batches
        batches = batch_idx + 1
        if trainer.is_global_zero and (batches % every == 0 or batches == trainer.num_training_batches):
            self._write(trainer, pl_module, f"epoch-{trainer.current_epoch + 1:03d}-batch-{batches:05d}")

    def _write(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        picture = montage(pl_module.samples(self.side**2, self.seed).numpy(), self.side)
        path = Path(trainer.default_root_dir, "montages", f"{name}.png")
        with dispensable_file(path) as partial:
            Image.fromarray(picture).save(partial, format="png")
        for logger in trainer.loggers:
            log_pictures(logger, "train/montage", [picture], [name], step_of(trainer))


def montage(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Pictures uint8 ``(N, H, W, 3)`` side by side without margins: uint8 ``(rows * H, columns * W, 3)``."""
    planes = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    return make_grid(planes, columns, padding=0).permute(1, 2, 0).numpy()
