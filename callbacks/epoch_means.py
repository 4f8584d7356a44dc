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

        ``outputs`` is what the step returned, of a few batches in one: ``loss`` the mean over all their samples, of all
        else (of a classifier ``logits`` and ``labels``) the rows of one batch after those of the other.
        """
        raise NotImplementedError

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin from nothing, also where an earlier run was interrupted."""
        self._totals: dict[str, Tensor] = {}
        self._names: dict[str, list[str]] = {}
        self._samples: dict[str, int] = defaultdict(int)
        self._kept: dict[str, list[dict[str, Tensor]]] = defaultdict(list)
        self._summed_epoch: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the sums of an epoch that was over when its checkpoint was made."""
        if self._summed_epoch != trainer.current_epoch:
            self._totals.pop("train", None)
            self._samples.pop("train", None)

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

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the training sums of an epoch that is not over; all processes' are added up."""
        if self._kept["train"]:
            self._add_kept("train")
        if "train" in self._totals:
            sums = trainer.strategy.reduce(self._sums_and_samples("train"), reduce_op="sum")
            states = checkpoint.setdefault("epoch_means", {})
            states[self.state_key] = {"epoch": trainer.current_epoch, "names": self._names["train"], "sums": sums.cpu()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from those sums, in the first process."""
        state = checkpoint.get("epoch_means", {}).get(self.state_key)
        if state and trainer.is_global_zero:
            self._summed_epoch, self._names["train"] = state["epoch"], state["names"]
            self._totals["train"], self._samples["train"] = state["sums"][:-1], int(state["sums"][-1])

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
        earlier = self._totals.get(stage)
        self._totals[stage] = added if earlier is None else earlier.to(added.device) + added
        self._names[stage] = list(sums)
        self._samples[stage] += samples(outputs)

    def _sums_and_samples(self, stage: str) -> Tensor:
        sums = self._totals[stage]
        return torch.cat([sums, sums.new_tensor([self._samples[stage]])])

    def _log_means(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._kept[stage]:
            self._add_kept(stage)
        if stage not in self._totals:  # a sanity check, or an epoch that a resume found finished
            return
        sums = trainer.strategy.reduce(self._sums_and_samples(stage), reduce_op="sum")
        del self._totals[stage], self._samples[stage]
        for name, mean in zip(self._names[stage], sums[:-1] / sums[-1], strict=True):
            shown = stage == "val" or (stage, name) == ("train", "loss")
            pl_module.log(f"{stage}/{name}", mean, prog_bar=shown)


def samples(outputs: dict[str, Tensor]) -> int:
    """How many the batch of a step had."""
    return len(next(tensor for name, tensor in outputs.items() if name != "loss"))


def joined(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the steps returned for a few batches, as if for one."""
    rows = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0] if name != "loss"}
    losses = torch.stack([batch["loss"] for batch in batches])
    losses = losses.to(widest_float(losses.device))
    sizes = torch.tensor([samples(batch) for batch in batches], dtype=losses.dtype)
    sizes = sizes.to(losses.device, non_blocking=True)  # made there, they would wait for all that it has to do
    return {"loss": (losses * sizes).sum() / sizes.sum(), **rows}


def widest_float(device: torch.device) -> torch.dtype:
    """float64, but for Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64
