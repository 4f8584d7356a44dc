"""Random numbers of a training step as a function of seed, epoch, batch and process."""

import hashlib
import os
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class StepSeed(Callback):
    """Seeds torch before each training step, so that dropout is the same in a resumed run as in an uninterrupted one.

    Processes draw different numbers from each other, as they should.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the run's seed."""
        self.seed = run_seed()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the generators of the processor and of the device that trains."""
        place = f"{self.seed} {trainer.current_epoch} {batch_idx} {trainer.global_rank}"
        seed = int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "big") >> 1
        torch.default_generator.manual_seed(seed)  # torch.manual_seed costs a hundred times as much
        device = trainer.strategy.root_device  # a module whose weights are sharded does not know it
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)


def run_seed() -> int:
    """The seed of the run: what seed_everything was given, else torch's own."""
    return int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed() % 2**63))
