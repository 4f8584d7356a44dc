"""What a data set asks of a trainer, where none is."""

from types import SimpleNamespace

import torch

from datamodules.base import ImageDataModule


def seen_by_a_trainer(data: ImageDataModule, rank: int = 0, processes: int = 1) -> ImageDataModule:
    """The datamodule as a trainer on the CPU would use it, at the beginning of a run."""
    beginning = SimpleNamespace(current=SimpleNamespace(ready=0, processed=0))
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=processes,
        is_global_zero=rank == 0,
        training=True,
        predicting=False,
        strategy=SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda decided: decided),
        lightning_module=SimpleNamespace(dtype=torch.float32),
        fit_loop=SimpleNamespace(epoch_progress=beginning, epoch_loop=SimpleNamespace(batch_progress=beginning)),
    )
    return data
