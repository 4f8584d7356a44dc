"""The state of a run on disk: each few epochs, each few minutes, and when a signal asks for a pause."""

import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from callbacks.run_folder import LAST, PREVIOUS

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
CHANCES = 8  # so often processes agree whether to save: each time costs a message
GO_ON, SAVE, PAUSE = range(3)


logger = logging.getLogger("litvision")


class Paused(Exception):
    """The end of a run that was asked to pause, after its checkpoint is written; its text is the run's folder."""


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` at the end of an epoch, now and then within one, and before a pause.

    The one before it stays as ``previous.ckpt``; older ones are gone. A run continues from either in the middle of the
    epoch, and ends where an uninterrupted one does.

    ctrl + c, SIGTERM and SIGUSR1 (which SLURM sends where ``--signal=USR1@90`` asks for it) pause the run: the step
    ends, in validation the epoch, and a checkpoint is written. The second ctrl + c stops at once. A training that ends
    within an epoch, as its ``max_time`` is over, goes on there, too, if it is continued; one that ends there by
    ``max_steps`` goes on with the next epoch.

    Args:
        every_epochs: epochs from one checkpoint to the next; the last epoch always has one.
        every_minutes: time after which one is written within an epoch; 0 is after each step.

    Raises:
        ValueError: every_epochs is less than 1, or every_minutes is negative.
        Paused: in training, after a signal.
    """

    def __init__(self, every_epochs: int = 1, every_minutes: float = 15.0) -> None:
        if every_epochs < 1:
            raise ValueError(f"every_epochs is {every_epochs}; it must be at least 1")
        if every_minutes < 0:
            raise ValueError(f"every_minutes is {every_minutes}; it must not be negative")
        self.every_epochs, self.every_minutes = every_epochs, every_minutes

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let SIGTERM end at once what cannot be paused: an evaluation, or a run before its first step.

        Lightning's own handler, registered after this, would wait for the other processes within the signal, and a
        prediction would not heed it at all.
        """
        trainer._signal_connector._sigterm_notifier_fn = _end

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse the state of another optimizer; a callback that changes the optimizer has done so by now."""
        if trainer.state.fn == "fit" and "state_dict" in checkpoint:  # else a strategy that shards weights has them
            pl_module.refuse_other_optimizers(checkpoint.get("optimizer_states", []))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and listen to signals; Lightning gives them back to their owners after the run."""
        _begin_next_epoch(trainer)
        self._saved = time.monotonic()
        self._chances = 0
        self._signalled = False
        self._stopped = False  # within an epoch
        self._stops = False  # as soon as it can
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)
        # Lightning's processes ask each other before each step, and wait for the device to answer, about a SIGTERM of
        # which it does not know any more
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within the epoch if it is time."""
        if not _between_steps(trainer, batch_idx):
            if trainer.should_stop and batch_idx + 1 < trainer.num_training_batches:
                self._stops, trainer.should_stop = True, False  # a little later, where a run can continue from
            return
        if self._stops:
            trainer.should_stop = True
        if trainer.should_stop and trainer.fit_loop._can_stop_early:  # not before min_epochs
            self._save(trainer)
            self._stopped = True
            return
        self._chances += 1
        if trainer.world_size > 1 and self._chances % CHANCES:
            return
        wish = self._wish(trainer)
        if wish != GO_ON:
            self._save(trainer)
        if wish == PAUSE:
            _pause(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the finished epoch."""
        if self._stopped:
            return
        trainer.should_stop |= self._stops
        ends = trainer.current_epoch + 1 == trainer.max_epochs or _took_all_steps(trainer)
        wish = self._wish(trainer)
        if ends or trainer.should_stop or wish != GO_ON or (trainer.current_epoch + 1) % self.every_epochs == 0:
            self._save(trainer)
        if wish == PAUSE and not ends:
            _pause(trainer)

    def _wish(self, trainer: Trainer) -> int:
        """What any of the processes wishes."""
        due = time.monotonic() - self._saved >= 60 * self.every_minutes
        wish = PAUSE if self._signalled else SAVE if due else GO_ON
        if trainer.world_size == 1:
            return wish
        return int(trainer.strategy.reduce(torch.tensor(wish, device=trainer.strategy.root_device), reduce_op="max"))

    def _save(self, trainer: Trainer) -> None:
        last, previous = (Path(trainer.default_root_dir).absolute() / name for name in (LAST, PREVIOUS))
        newest = last.with_name("newest.ckpt")
        trainer.save_checkpoint(newest, weights_only=False)  # said, or Lightning prints that it chose this
        if trainer.is_global_zero:
            if last.exists():
                os.replace(last, previous)
            os.replace(newest, last)
        self._saved = time.monotonic()

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal until the step is over, and let the next ctrl + c through."""
        self._signalled = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End this process as the signal would, but with everything that it holds open closed."""
    raise SystemExit(128 + number)


def _begin_next_epoch(trainer: Trainer) -> None:
    """Let a run that goes on from the end of an epoch begin the next one.

    With ``max_steps``, Lightning would take that epoch for an unfinished one and end it once more, without a batch.
    """
    loop = trainer.fit_loop
    epochs = loop.epoch_progress.current
    if loop.restarting and epochs.ready == epochs.started == epochs.processed:
        epochs.completed = epochs.processed
        loop._restarting = loop.epoch_loop._restarting = False  # the public setters have the last word with max_steps
        loop.reset_restart_stage()


def _between_steps(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a run can continue from here: no gradient is kept, nothing is left to do before the next batch.

    Nor after the last validation within an epoch: the epoch's figures are those, and are recorded at its end.
    """
    batches, whole, between = batch_idx + 1, trainer.num_training_batches, trainer.val_check_batch
    validates = validated = False
    if isinstance(between, int):
        counted = trainer.fit_loop.epoch_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
        before = counted - batch_idx  # in earlier epochs
        validates = (before + batches) % between == 0
        validated = before // between < (before + batches) // between == (before + whole) // between
    over = batches == whole or _took_all_steps(trainer)
    return not over and not validates and not validated and batches % trainer.accumulate_grad_batches == 0


def _took_all_steps(trainer: Trainer) -> bool:
    """Whether ``max_steps`` are reached; the last batch of several optimizers may go beyond."""
    return 0 < trainer.max_steps <= trainer.global_step


def _pause(trainer: Trainer) -> NoReturn:
    """End the run."""
    if trainer.is_global_zero:
        place = f"epoch {trainer.current_epoch + 1}, after step {trainer.global_step}"
        logger.info("paused in %s; nothing is lost", place)
    raise Paused(os.path.relpath(trainer.default_root_dir))
