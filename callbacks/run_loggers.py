"""The loggers of ``--logger``, which write into the run's folder and go on where an earlier session stopped."""

import csv
import math
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from callbacks.last_checkpoint import Paused

KINDS = ("wandb", "tensorboard", "csv")
PAUSED = "paused"  # beside Lightning's "success" and "failed"


class RunLoggers(Callback):
    """Adds loggers to the trainer while it trains or tests: ``<run>/wandb``, ``<run>/tensorboard``, ``<run>/csv``.

    Args:
        names: of the loggers, with commas between them.

    Raises:
        ValueError: there is no such logger.
        ModuleNotFoundError: its package is not installed.
    """

    def __init__(self, names: str = "") -> None:
        self.names = list(dict.fromkeys(names.split(","))) if names else []
        for name in self.names:
            if name not in KINDS:
                raise ValueError(f"there is no logger {name!r}; known are {', '.join(KINDS)}, with commas between them")
        if "tensorboard" in self.names and not find_spec("tensorboard"):
            raise ModuleNotFoundError("--logger tensorboard needs a package: pip install tensorboard")
        self._opened: list[Logger] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin without a checkpoint."""
        self._step: int | None = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Learn at which step the checkpoint was made; a test in a process of its own belongs there, too."""
        self._step = checkpoint["global_step"] // max(1, len(checkpoint.get("optimizer_states", ())))
        if trainer.testing and not trainer.global_step and "loops" in checkpoint:
            trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the loggers, before other callbacks look for them."""
        self._open(trainer, self._step)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open them again, after all that training wrote."""
        self._open(trainer, math.inf)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close them, so that the next run of this process opens its own."""
        self._close(trainer, "success")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close them as those of a run that was paused, or has failed."""
        self._close(trainer, PAUSED if isinstance(exception, Paused) else "failed")

    def _open(self, trainer: Trainer, last_step: float | None) -> None:
        """Open for what comes after a step, or for a run that begins."""
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        for name in self.names:
            logger = {"wandb": open_wandb, "tensorboard": open_tensorboard, "csv": open_csv}[name](folder, last_step)
            if logger:
                self._opened.append(logger)
        trainer.loggers = [*trainer.loggers, *self._opened]

    def _close(self, trainer: Trainer, status: str) -> None:
        trainer.loggers = [logger for logger in trainer.loggers if logger not in self._opened]
        for logger in self._opened:
            logger.finalize(status)
        self._opened = []


def open_wandb(folder: Path, last_step: float | None) -> Logger | None:
    """The same W&B run as before, or another for a run that begins; None where there can be none."""
    from callbacks.wandb_run import resume_or_begin  # the package takes a second, which others need not wait for

    return resume_or_begin(folder, last_step is not None)


def open_tensorboard(folder: Path, last_step: float | None) -> TensorBoardLogger:
    """Another event file for a run that goes on; TensorBoard reads all of a folder as one."""
    if last_step is None:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    goes_on = {} if last_step in (None, math.inf) else {"purge_step": last_step + 1}
    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False, **goes_on)


def open_csv(folder: Path, last_step: float | None) -> CSVLogger:
    """One table over all sessions; Lightning alone would delete what earlier ones wrote."""
    path, rows = folder / "csv/metrics.csv", []
    if last_step is not None and path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= last_step]
    shutil.rmtree(path.parent, ignore_errors=True)
    logger = CSVLogger(folder, name="csv", version="")
    logger.experiment.metrics = [{name: value for name, value in row.items() if value} for row in rows]
    logger.save()
    return logger
