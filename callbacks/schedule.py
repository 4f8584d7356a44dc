"""The base of learning-rate schedules: pure functions of the progress, so no state to save or to restore."""

import math
from typing import Any, Literal

from pytorch_lightning import Callback, LightningModule, Trainer


class Schedule(Callback):
    """Sets the learning rate of every parameter group before each step, from the finished epochs or steps alone.

    The curve is the same after any resume, and one that decays to the end follows ``trainer.max_epochs`` when training
    goes on for longer. A subclass gives ``rate`` and, if it counts in steps, ``interval``.
    """

    interval: Literal["epoch", "step"] = "epoch"

    def rate(self, base_rate: float, finished: int, total: float) -> float:
        """Learning rate after ``finished`` of ``total`` epochs or steps.

        ``base_rate`` is the rate the optimizer was configured with; ``total`` is infinite where the trainer has no end.
        """
        raise NotImplementedError

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle the length of the whole training."""
        total = trainer.max_epochs if self.interval == "epoch" else trainer.estimated_stepping_batches
        self.total = math.inf if total in (None, -1) else total

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rate of the coming step."""
        steps = trainer.global_step // len(trainer.optimizers)  # Lightning counts those of each
        finished = trainer.current_epoch if self.interval == "epoch" else steps
        for optimizer in trainer.optimizers:
            # the groups' own values may come from a checkpoint; only the defaults are what the user configured
            rate = self.rate(optimizer.defaults["lr"], finished, self.total)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("rate_factor", 1.0)
