"""Weights in the memory format that convolutions of NHWC pictures want."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class ChannelsLast(Callback):
    """Turns the weights to channels_last; the pictures of a batch always are.

    Worth it on GPUs with tensor cores, most of all in 16-bit precision.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Turn the weights."""
        pl_module.to(memory_format=torch.channels_last)
