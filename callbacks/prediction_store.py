"""What a test's network said of each picture, kept so that nothing has to be run again to look at it."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from callbacks.whole_file import whole_file

PROBABILITIES = "report/probabilities.h5"  # in a run's folder
OF_VALIDATION = "report/val_probabilities.h5"


@dataclass
class Predictions:
    """Probabilities that a test or a validation gave, float32 ``(N, C)``, and what they are of.

    ``rows`` of the stored split and ``labels`` are ``(N,)``. ``split`` is the checksum of the pictures: predictions of
    the same ones can be compared row by row. ``packed_set`` is the folder's name of the packed set, with the data set
    and the hash of its recipe. ``epoch`` counts, from 1, the epochs that the checkpoint was trained for; None without
    one. ``folds``, int64 ``(N,)``, are those of out-of-fold predictions, from 1; rows are then those of the fold's own
    validation split.
    """

    probabilities: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    names: list[str]
    split: str
    packed_set: str = ""
    epoch: int | None = None
    folds: np.ndarray | None = None

    def save(self, path: Path) -> None:
        """Write the file, under a temporary name first."""
        with whole_file(path) as partial, h5py.File(partial, "w") as file:
            file["probabilities"], file["rows"], file["labels"] = self.probabilities, self.rows, self.labels
            if self.folds is not None:
                file["folds"] = self.folds
            file["label_names"] = np.array(self.names, h5py.string_dtype())
            for name in ("split", "packed_set", "epoch"):
                if getattr(self, name) is not None:
                    file.attrs[name] = getattr(self, name)

    @classmethod
    def load(cls, run: Path, name: str = PROBABILITIES) -> "Predictions":
        """Those of a run's last test, or of its last validation.

        Raises:
            FileNotFoundError: the run was not tested, or not validated.
            ValueError: the file is damaged.
        """
        command = f"main.py {'validate' if name == OF_VALIDATION else 'test'} --run {shlex.quote(str(run))}"
        path = run / name
        if not path.is_file():
            raise FileNotFoundError(f"{run} has no {name}; {command} writes it")
        try:
            with h5py.File(path, "r", locking=False) as file:
                arrays = (file[name][()] for name in ("probabilities", "rows", "labels"))
                names, attributes = file["label_names"].asstr()[()].tolist(), file.attrs
                epoch = int(attributes["epoch"]) if "epoch" in attributes else None
                made = str(attributes["split"]), str(attributes["packed_set"]), epoch
                return cls(*arrays, names, *made, file["folds"][()] if "folds" in file else None)
        except (OSError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); {command} writes it anew") from error

    def right(self) -> np.ndarray:
        """Which pictures are named correctly, bool ``(N,)``; one with a probability that is no number is not."""
        finite = np.isfinite(self.probabilities).all(axis=1)
        return (self.probabilities.argmax(axis=1) == self.labels) & finite

    def surest_mistakes(self) -> np.ndarray:
        """Places of the wrong predictions, the most probable first; those with no numbers are left out."""
        confidence = self.probabilities.max(axis=1)
        wrong = np.flatnonzero(~self.right() & np.isfinite(self.probabilities).all(axis=1))
        return wrong[np.argsort(-confidence[wrong], kind="stable")]


def of_all_processes(trainer: Trainer, mine: Any) -> list[Any]:
    """What each process has, in their order; all have to ask."""
    parts = [mine] * trainer.world_size
    if trainer.world_size > 1:
        distributed.all_gather_object(parts, mine)
    return parts


class PredictionStore(Callback):
    """Writes the ``Predictions`` of each test to ``<run>/report/probabilities.h5``, in the stored order of the split.

    Those of a validation that a user asks for, not of one within ``fit``, go to ``<run>/report/val_probabilities.h5``.
    Probabilities stay on the device until all are there, so no step waits for it.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin without a checkpoint."""
        self._epoch: int | None = None
        self._validates = stage == "validate"

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Learn how many epochs the checkpoint was trained for; at the end of a training, ``epoch`` is one more."""
        loops = checkpoint.get("loops")  # not of weights alone
        self._epoch = loops["fit_loop"]["epoch_progress"]["current"]["ready"] if loops else None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin from nothing, and learn which rows each batch holds."""
        self._begin(trainer.test_dataloaders)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        if self._validates:
            self._begin(trainer.val_dataloaders)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch."""
        self._probabilities.append(outputs["logits"].float().softmax(dim=1))
        self._labels.append(outputs["labels"])

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """The same."""
        if self._validates:
            self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the processes' pictures together, and write them."""
        self._write(trainer, "test", PROBABILITIES)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        if self._validates:
            self._write(trainer, "val", OF_VALIDATION)

    def _begin(self, loader: Any) -> None:
        self._probabilities: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._rows = list(getattr(loader, "batch_sampler", None) or [])

    def _write(self, trainer: Trainer, split: str, name: str) -> None:
        if not hasattr(trainer.datamodule, "checksum_of"):  # a bare loader: nothing says what its rows are
            return
        rows = np.concatenate([np.asarray(batch, np.int64) for batch in self._rows[: len(self._labels)]])
        mine = torch.cat(self._probabilities).cpu().numpy(), rows, torch.cat(self._labels).cpu().numpy()
        del self._probabilities, self._labels
        parts = of_all_processes(trainer, mine)
        if trainer.is_global_zero:
            probabilities, rows, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            order, data = np.argsort(rows), trainer.datamodule
            arrays = probabilities[order], rows[order], labels[order]
            found = Predictions(*arrays, list(data.classes), data.checksum_of(split), data.folder.name, self._epoch)
            found.save(Path(trainer.default_root_dir) / name)
