"""Random numbers of a training step as a function of seed, epoch, batch and process."""

import os
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class StepSeed(Callback):
    """Seeds torch before each training step, so that dropout is the same in a resumed run as in an uninterrupted one.

    Processes draw different numbers from each other, as they should.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the run's seed: what seed_everything was given, else torch's own."""
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed() % 2**63))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the generators of all devices."""
        place = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))
