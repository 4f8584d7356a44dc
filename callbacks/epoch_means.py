"""The base of metrics that are means over the samples of an epoch, exact in any number of processes."""

from collections import defaultdict
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

BATCHES = 16  # so many are kept before they are summed: a step itself then costs next to nothing


class EpochMeans(Callback):
    """Logs ``train/<name>``, ``val/<name>`` and ``test/<name>`` at the end of each epoch of that stage.

    Sums are taken over a few batches at once and stay on the device, so a step never waits for it; sums and counts are
    added up over the processes once an epoch. A subclass gives ``sums``.
    """

    def sums(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalar sums over samples, by metric name.

        ``outputs`` is what the step returned, of a few batches in one: ``logits`` and ``labels`` one after the other,
        ``loss`` the mean over all their samples.
        """
        raise NotImplementedError

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin from nothing, also where an earlier run was interrupted."""
        self._totals: dict[str, Tensor] = {}
        self._names: dict[str, list[str]] = {}
        self._samples: dict[str, int] = defaultdict(int)
        self._kept: dict[str, list[dict[str, Tensor]]] = defaultdict(list)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch for the training sums."""
        self._keep("train", outputs)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch for the validation sums."""
        if not trainer.sanity_checking:
            self._keep("val", outputs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch for the test sums."""
        self._keep("test", outputs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the training means."""
        self._log_means("train", trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation means."""
        self._log_means("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the test means."""
        self._log_means("test", trainer, pl_module)

    def _keep(self, stage: str, outputs: dict[str, Tensor]) -> None:
        kept = self._kept[stage]
        kept.append(outputs)
        if len(kept) == BATCHES:
            self._add_kept(stage)

    def _add_kept(self, stage: str) -> None:
        outputs = joined(self._kept.pop(stage))
        sums = self.sums(outputs)
        if not sums:  # top-5 of three classes, say
            return
        added = torch.stack(list(sums.values())).to(widest_float(outputs["loss"].device))
        self._totals[stage] = self._totals[stage] + added if stage in self._totals else added
        self._names[stage] = list(sums)
        self._samples[stage] += len(outputs["labels"])

    def _log_means(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._kept[stage]:
            self._add_kept(stage)
        sums, samples = self._totals.pop(stage, None), self._samples.pop(stage, 0)
        if sums is None:  # a sanity check, or an epoch that a resume found finished
            return
        sums = trainer.strategy.reduce(torch.cat([sums, sums.new_tensor([samples])]), reduce_op="sum")
        for name, mean in zip(self._names[stage], sums[:-1] / sums[-1], strict=True):
            shown = stage == "val" or (stage, name) == ("train", "loss")
            pl_module.log(f"{stage}/{name}", mean, prog_bar=shown)


def joined(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the steps returned for a few batches, as if for one."""
    logits, labels = (torch.cat([batch[name] for batch in batches]) for name in ("logits", "labels"))
    losses = torch.stack([batch["loss"] for batch in batches])
    losses = losses.to(widest_float(losses.device))
    sizes = losses.new_tensor([len(batch["labels"]) for batch in batches])
    return {"loss": (losses * sizes).sum() / len(labels), "logits": logits, "labels": labels}


def widest_float(device: torch.device) -> torch.dtype:
    """float64, but for Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64
