"""Several networks from one training (Huang et al. 2017, Snapshot Ensembles, https://arxiv.org/abs/1704.00109)."""

import math
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from callbacks.run_folder import SNAPSHOT
from callbacks.schedule import Schedule


class SnapshotEnsemble(Schedule):
    """A learning rate that falls to zero in cycles of half a cosine, and a checkpoint at the end of each.

    The checkpoints are ``<run>/checkpoints/snapshot-1.ckpt`` and so on; ``lightning_modules.EnsembleClassifier``
    averages what they say (``--model.checkpoints '[FOLDER/checkpoints/snapshot-*.ckpt]'``). Cycle k ends after
    ``k * steps // cycles`` steps, so cycles differ by one step at most.

    Args:
        cycles: number of snapshots.

    Raises:
        ValueError: cycles is less than 1, or training has no end or fewer steps than cycles.
    """

    interval = "step"

    def __init__(self, cycles: int = 5) -> None:
        if cycles < 1:
            raise ValueError(f"cycles is {cycles}; it must be at least 1")
        self.cycles = cycles

    def rate(self, base_rate: float, finished: int, total: float) -> float:
        """See ``Schedule.rate``."""
        if finished >= total:
            return 0.0
        cycle = ((finished + 1) * self.cycles - 1) // total
        start, end = cycle * total // self.cycles, (cycle + 1) * total // self.cycles
        return base_rate * (1 + math.cos(math.pi * (finished - start) / (end - start))) / 2

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle the ends of the cycles."""
        super().on_train_start(trainer, pl_module)
        if math.isinf(self.total):
            raise ValueError("SnapshotEnsemble divides the whole training into cycles; set trainer.max_epochs")
        if self.total < self.cycles:
            raise ValueError(f"training has {self.total} steps, which do not make {self.cycles} cycles")
        self._ends = {cycle * self.total // self.cycles: cycle for cycle in range(1, self.cycles + 1)}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the network where a cycle ends; of batches that accumulate gradients, only the last made a step."""
        cycle = self._ends.pop(trainer.global_step, None)
        if cycle is not None:
            path = Path(trainer.default_root_dir) / f"checkpoints/{SNAPSHOT}{cycle}.ckpt"
            trainer.save_checkpoint(path, weights_only=False)
