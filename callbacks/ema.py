"""Exponential moving average of the weights (Polyak & Juditsky 1992; as in Tan & Le 2019, arXiv 1905.11946)."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor

CURRENT = "weights_in_training"  # key of a checkpoint; its state_dict holds the averages


class EMA(Callback):
    """Averages weights and running statistics over the steps; validation and checkpoints take the averages.

    After optimizer step n an average moves by ``1 - min(decay, (1 + n) / (10 + n))`` of the way to its weight, so that
    the first steps are soon forgotten. A checkpoint holds the averages as its weights, and those in training beside
    them for a run that goes on. Lightning's own callback would wait for the device in each step.

    Args:
        decay: what an average keeps of itself in a step, 0 to less than 1. An average reaches back about
            1 / (1 - decay) steps: that should be a few epochs.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; it must lie from 0 to less than 1")
        self.decay = decay
        self.averages: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what averages cannot be had of.

        Raises:
            ValueError: the strategy leaves each process with a part of the weights, or these have 16 bits, in which a
                thousandth of a difference is rounded away.
        """
        if stage == "fit" and trainer.precision in ("bf16-true", "16-true"):
            raise ValueError(
                f"EMA cannot average weights in {trainer.precision}, where its small steps are rounded away; take "
                f"--trainer.precision {trainer.precision.removesuffix('-true')}-mixed, or leave out callbacks.EMA"
            )
        if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy)):
            raise ValueError(
                "EMA averages whole weights, of which each process has but a part with this strategy; take ddp, or "
                "leave out callbacks.EMA"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, or from the averages of the checkpoint that the run goes on from."""
        self.weights = averaged(pl_module)  # steps change them in place; to list them takes as long as to average
        if not self.averages:
            self.averages = [tensor.clone() for tensor in self.weights]
        pairs = zip(self.averages, self.weights, strict=True)
        self.averages = [average.to(weight.device) for average, weight in pairs]
        self.steps = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the averages, if that batch ended an optimizer step."""
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        kept = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averages, self.weights, 1 - kept)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the averages."""
        self._swap(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train the weights on."""
        self._swap(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the averages as the weights."""
        if not self.averages:
            return
        weights = checkpoint["state_dict"]
        names = [name for name, tensor in weights.items() if tensor.is_floating_point()]
        checkpoint[CURRENT] = weights
        checkpoint["state_dict"] = weights | dict(zip(names, self.averages, strict=True))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the weights in training, and keep the averages; a test has loaded the averages."""
        if trainer.state.fn == "fit" and CURRENT in checkpoint:
            self.averages = [tensor for tensor in checkpoint["state_dict"].values() if tensor.is_floating_point()]
            pl_module.load_state_dict(checkpoint[CURRENT])

    def _swap(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        for average, weight in zip(self.averages, self.weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)


def averaged(pl_module: LightningModule) -> list[Tensor]:
    """Weights and statistics that have an average: not the counters."""
    return [tensor for tensor in pl_module.state_dict().values() if tensor.is_floating_point()]
