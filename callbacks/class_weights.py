"""A loss in which rare classes count as much as frequent ones."""

import logging

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

logger = logging.getLogger("litvision")


class ClassWeights(Callback):
    """Weighs the training loss of each picture by its class: ``(N / (C * n)) ** power`` for n of N pictures.

    The mean weight of the training pictures is 1, so a learning rate keeps its meaning. Validation and test stay as
    they are; ``report/per_class.csv`` and the macro averages tell how rare classes fare.

    Args:
        power: 1 gives all classes the same say, 0.5 a part of that, 0 none.

    Raises:
        ValueError: power is negative, or the network is no classifier.
    """

    def __init__(self, power: float = 1.0) -> None:
        if power < 0:
            raise ValueError(f"power is {power}; it must not be negative")
        self.power = power

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the training pictures of each class."""
        if not hasattr(pl_module, "class_weights"):
            raise ValueError(f"{type(pl_module).__name__} has no classes; leave out callbacks.ClassWeights")
        counts = np.bincount(trainer.datamodule.splits["train"].labels, minlength=pl_module.num_classes)
        weights = np.where(counts > 0, (counts.sum() / (len(counts) * counts.clip(min=1))) ** self.power, 0.0)
        weights *= counts.sum() / (weights * counts).sum()
        if trainer.is_global_zero:
            logger.info("the loss weighs classes by %.3g to %.3g", weights[counts > 0].min(), weights.max())
        dtype = next(pl_module.parameters()).dtype
        pl_module.class_weights = torch.tensor(weights, dtype=dtype, device=trainer.strategy.root_device)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave none to another training of the same network."""
        pl_module.class_weights = None
