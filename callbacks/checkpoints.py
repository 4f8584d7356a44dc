"""Best and last checkpoint of a run, in ``<run>/checkpoints``, and how checkpoints get to disk and back."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks.whole_file import whole_file
from lightning_modules.tensor_file import read_tensors


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there, and that can run no code when they are loaded."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any | None = None) -> None:
        """Write under a temporary name, flush to disk, rename: a kill leaves the earlier checkpoint as it was."""
        with whole_file(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load onto the CPU.

        Raises:
            ValueError: the file is damaged, or could run code.
        """
        if weights_only is False:  # only if typed: --weights_only false
            return torch.load(path, map_location=map_location or "cpu", weights_only=False)
        return read_tensors(path, "choose another with --ckpt_path")


class RunCheckpoint(ModelCheckpoint):
    """One checkpoint in the run's folder, replaced at the end of an epoch, after metrics and history are written.

    Lightning keeps absolute paths in its checkpoints, and forgets the best score once the folder was moved. Only the
    score is kept here: the path follows from the folder.
    """

    def __init__(self, filename: str, monitor: str | None = None, mode: str = "min") -> None:
        super().__init__(
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,  # a slash in a metric's name would make a folder
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the folder."""
        self.dirpath = os.path.join(os.path.abspath(trainer.default_root_dir), "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Nothing is due within an epoch; to find that out, Lightning needs a tenth of a millisecond a step."""

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best_model_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a score, wherever the folder lies now."""
        score = state_dict["best_model_score"]
        if score is None:
            return
        path = os.path.join(str(self.dirpath), self.filename + self.FILE_EXTENSION)
        self.best_model_score = self.kth_value = score
        self.best_model_path = self.kth_best_model_path = path
        self.best_k_models = {path: score}


class BestCheckpoint(RunCheckpoint):
    """The checkpoint with the best validation top-1 accuracy, the earliest of equals.

    Where the test split validates (``validate_on_test`` of the datamodule), nothing may be chosen by it: then the best
    checkpoint is the last one.
    """

    def __init__(self) -> None:
        super().__init__("best", monitor="val/top1", mode="max")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See whether there is a split to choose by."""
        if getattr(trainer.datamodule, "validate_on_test", False):
            self.monitor = None
        super().setup(trainer, pl_module, stage)


class LastCheckpoint(RunCheckpoint):
    """The checkpoint of the last finished epoch."""

    def __init__(self) -> None:
        super().__init__("last")
