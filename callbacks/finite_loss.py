"""The end of a run whose loss is no longer a number."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

BATCHES = 16
REMEDY = "the checkpoints are those of earlier steps. Lower the learning rate"
CLIPPING = ", or clip gradients (--trainer.gradient_clip_val 1)"  # which Lightning does where it takes the steps itself


class FiniteLoss(Callback):
    """Stops training when the loss, or a weight, is infinite or no number, before the last good checkpoint is replaced.

    Losses are looked at some batches later, when a GPU has them anyway, and at the end of an epoch: no step waits.

    Raises:
        ValueError: names the first such step.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing has been seen yet."""
        self._kept: list[Tensor] = []
        self._copied: Copied | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Look at the losses copied a while ago, and copy the next."""
        self._kept.append(outputs["loss"].detach())
        self._last = batch_idx  # of those kept; Lightning's own count is ahead, if a callback before this one saves
        if len(self._kept) == BATCHES:
            self._look(trainer)
            self._copied, self._kept = Copied(self._kept, batch_idx), []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the rest."""
        self._look_at_all(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at the rest, and at the weights, of whose last step no loss tells yet.

        No checkpoint is replaced by one of no use.
        """
        if not trainer.training:
            return
        self._look_at_all(trainer)
        if not torch.stack([weights.isfinite().all() for weights in pl_module.parameters()]).all():
            raise ValueError(
                f"weights are no longer finite after step {trainer.global_step}, in epoch "
                f"{trainer.current_epoch + 1}; {remedy(pl_module)}"
            )

    def _look_at_all(self, trainer: Trainer) -> None:
        self._look(trainer)
        if self._kept:
            self._copied = Copied(self._kept, self._last)
            self._look(trainer)
        self._kept, self._copied = [], None

    def _look(self, trainer: Trainer) -> None:
        if self._copied is None or (losses := self._copied.losses()).isfinite().all():
            return
        first = int(losses.isfinite().int().argmin())
        step = self._copied.last - len(losses) + 1 + first
        raise ValueError(
            f"the loss is {losses[first].item()} in epoch {trainer.current_epoch + 1}, step {step + 1} of "
            f"{trainer.num_training_batches}; {remedy(trainer.lightning_module)}"
        )


def remedy(pl_module: LightningModule) -> str:
    """What to do about a loss or a weight that is no number."""
    return REMEDY + CLIPPING * pl_module.automatic_optimization


class Copied:
    """Losses on their way to the CPU; ``last`` is the batch of the last of them."""

    def __init__(self, losses: list[Tensor], last: int) -> None:
        self.last = last
        stacked = torch.stack(losses)
        self._tensor = stacked.to("cpu", non_blocking=True)
        self._arrival = torch.cuda.Event() if stacked.is_cuda else None
        if self._arrival:
            self._arrival.record()

    def losses(self) -> Tensor:
        """The losses, once they have arrived."""
        if self._arrival:
            self._arrival.synchronize()
        return self._tensor
