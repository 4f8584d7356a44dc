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
        if self.interval == "step" and trainer.max_steps > 0:  # Lightning counts the steps of each optimizer
            total = min(total, trainer.max_steps // len(trainer.optimizers))
        self.total = math.inf if total in (None, -1) else total

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rate of the coming step."""
        finished = trainer.current_epoch if self.interval == "epoch" else finished_steps(trainer, batch_idx)
        for optimizer in trainer.optimizers:
            # the groups' own values may come from a checkpoint; only the defaults are what the user configured
            rate = self.rate(optimizer.defaults["lr"], finished, self.total)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("rate_factor", 1.0)


def finished_steps(trainer: Trainer, batch_idx: int) -> int:
    """Steps before that of a batch, of each optimizer.

    Earlier epochs count as many as this one has, also where a run goes on with batches of another size: the curve is
    one of the share of the training that is over. Where steps are what ends it, they are counted as they were made.
    """
    if trainer.max_steps > 0:
        return trainer.global_step // len(trainer.optimizers)
    of_an_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return trainer.current_epoch * of_an_epoch + batch_idx // trainer.accumulate_grad_batches
