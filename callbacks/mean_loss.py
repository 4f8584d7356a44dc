"""The mean loss of an epoch."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.epoch_means import EpochMeans, samples


class MeanLoss(EpochMeans):
    """Logs ``loss``: the mean over all samples, each batch weighted by its size."""

    def sums(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``EpochMeans.sums``."""
        return {"loss": outputs["loss"] * samples(outputs)}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Take the whole loss: Lightning has divided it by the number of accumulated batches."""
        if trainer.accumulate_grad_batches > 1:
            outputs = {**outputs, "loss": outputs["loss"] * trainer.accumulate_grad_batches}
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
