"""The base of metrics that are means over the samples of an epoch, exact in any number of processes."""

from collections import defaultdict
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor


class EpochMeans(Callback):
    """Logs ``train/<name>``, ``val/<name>`` and ``test/<name>`` at the end of each epoch of that stage.

    Sums stay on the device, so a step never waits for it; sums and counts are added up over the processes once an
    epoch. A subclass gives ``sums``.
    """

    def sums(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalar sums over the samples of a batch, by metric name; ``outputs`` is what the step returned."""
        raise NotImplementedError

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin from nothing, also where an earlier run was interrupted."""
        self._totals: dict[str, Tensor] = {}
        self._names: dict[str, list[str]] = {}
        self._samples: dict[str, int] = defaultdict(int)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Add the batch to the training sums."""
        # Lightning has divided the loss that a step returned by the number of accumulated batches
        self._add("train", {**outputs, "loss": outputs["loss"] * trainer.accumulate_grad_batches})

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch to the validation sums."""
        if not trainer.sanity_checking:
            self._add("val", outputs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch to the test sums."""
        self._add("test", outputs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the training means."""
        self._log_means("train", trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation means."""
        self._log_means("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the test means."""
        self._log_means("test", trainer, pl_module)

    def _add(self, stage: str, outputs: dict[str, Tensor]) -> None:
        sums = self.sums(outputs)
        if not sums:  # top-5 of three classes, say
            return
        added = torch.stack(list(sums.values()))  # one addition for all metrics
        added = added.to(torch.float32 if added.device.type == "mps" else torch.float64)  # mps has no float64
        self._totals[stage] = self._totals[stage] + added if stage in self._totals else added
        self._names[stage] = list(sums)
        self._samples[stage] += len(outputs["labels"])

    def _log_means(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        sums, samples = self._totals.pop(stage, None), self._samples.pop(stage, 0)
        if sums is None:  # a sanity check, or an epoch that a resume found finished
            return
        sums = trainer.strategy.reduce(torch.cat([sums, sums.new_tensor([samples])]), reduce_op="sum")
        for name, mean in zip(self._names[stage], sums[:-1] / sums[-1], strict=True):
            shown = stage == "val" or (stage, name) == ("train", "loss")
            pl_module.log(f"{stage}/{name}", mean, prog_bar=shown)
