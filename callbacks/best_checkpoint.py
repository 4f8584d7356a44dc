"""The checkpoint of a run that is tested."""

import logging
import os
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

logger = logging.getLogger("litvision")


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt``: the best by the network's ``monitor``, the earliest of equals.

    It is written after metrics and history. Where the test split validates (``validate_on_test`` of the datamodule),
    nothing may be chosen by it: then the best checkpoint is the last one, as it is of a network that has nothing to
    choose by, and of a training that ends before its first validation.

    Lightning keeps absolute paths in its checkpoints, and forgets the best score once the folder was moved. Only the
    score is kept here: the path follows from the folder.
    """

    def __init__(self) -> None:
        super().__init__(
            filename="best",
            mode="max",
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,  # a slash in a metric's name would make a folder
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the folder, and whether there is a split to choose by."""
        self.monitor = None if getattr(trainer.datamodule, "validate_on_test", False) else pl_module.monitor
        self.dirpath = os.path.join(os.path.abspath(trainer.default_root_dir), "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from a score of the checkpoint; a new folder, which has no best network yet, begins anew."""
        super().on_train_start(trainer, pl_module)
        batches, between = trainer.num_training_batches, trainer.val_check_batch
        if self.monitor and isinstance(between, int) and batches % between and trainer.is_global_zero:
            logger.warning(
                "the last validation comes before the end of an epoch: best.ckpt is of the epoch's end, chosen by the "
                "figures from before it"
            )
        limit = trainer.limit_val_batches  # a number of batches, or a share of them
        if self.monitor and limit and (isinstance(limit, int) or limit < 1) and trainer.is_global_zero:
            logger.warning(
                "validation sees its first batches alone, which may be of the first classes; best.ckpt is chosen by "
                "them"
            )
        if not trainer.strategy.broadcast(os.path.exists(self._path)):
            self.best_model_score = None
        if self.best_model_score is not None:
            self.best_model_path = self.kth_best_model_path = self._path
            self.best_k_models = {self._path: self.best_model_score}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Nothing is due within an epoch; to find that out, Lightning needs a tenth of a millisecond a step."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the last network, if there was no validation to choose by."""
        if self.best_model_score is None and (self.monitor or trainer.fast_dev_run):
            trainer.save_checkpoint(self._path, weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best_model_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember a score, wherever the folder lies now."""
        self.best_model_score = state_dict["best_model_score"]

    @property
    def _path(self) -> str:
        return os.path.join(str(self.dirpath), self.filename + self.FILE_EXTENSION)
