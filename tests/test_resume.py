"""A run that stops in the middle of an epoch and goes on there ends where an uninterrupted one does."""

import json
from contextlib import suppress
from pathlib import Path

import albumentations as A
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import nn

from callbacks import WholeCheckpointIO, with_those_of_every_run
from datamodules import BatchAugment, Digits
from lightning_modules import Classifier

STEPS = 1212 // 128  # an epoch


class Small(Classifier):
    """A network with everything that must be restored: weights, running statistics, dropout."""

    def __init__(self, image_size: int) -> None:
        super().__init__(10, image_size, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9))
        layers = [nn.Flatten(), nn.LazyLinear(32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)]
        self.net = nn.Sequential(*layers)
        self.net(torch.zeros(2, 3, image_size, image_size))


class Stop(Callback):
    """Saves a checkpoint after some step, and ends the run there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/stopped.ckpt")
            raise KeyboardInterrupt


class Watch(Callback):
    """Fingerprints of the batches that reach the network, by step."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: tuple, batch_idx: int) -> None:
        assert batch_idx == trainer.global_step % STEPS
        self.seen[trainer.global_step] = batch[0].double().sum().item()


def fit(folder: Path, shards: Path, *callbacks: Callback, ckpt_path: str | None = None, **arguments: object) -> Trainer:
    seed_everything(3, verbose=False)
    data = Digits(root=str(shards), batch_size=128, **arguments)
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[WholeCheckpointIO()],
        callbacks=with_those_of_every_run(list(callbacks), "", ""),
    )
    with suppress(SystemExit):  # how Lightning ends after an interruption
        trainer.fit(Small(data.input_size), datamodule=data, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("stop", [4, STEPS - 1, STEPS, STEPS + 1, 2 * STEPS + 5])
def test_weights_batches_and_history_are_the_same(tmp_path: Path, shards: Path, stop: int) -> None:
    augment = BatchAugment(crop=16, padding=2, flip=0.5, mixup=0.2)
    arguments = {"batch_augment": augment, "transforms": [A.Affine(rotate=(-20, 20), p=1)], "num_workers": 0}
    whole, first, rest = Watch(), Watch(), Watch()
    expected = fit(tmp_path / "whole", shards, whole, **arguments)
    fit(tmp_path / "parts", shards, first, Stop(stop), **arguments)
    found = fit(tmp_path / "parts", shards, rest, ckpt_path=str(tmp_path / "parts" / "stopped.ckpt"), **arguments)
    assert list(rest.seen) == list(range(stop, 3 * STEPS))
    assert first.seen | rest.seen == whole.seen
    for name, weights in expected.lightning_module.state_dict().items():
        assert torch.equal(weights, found.lightning_module.state_dict()[name]), name
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts")]
    if stop == STEPS:  # after its last step an epoch is over for Lightning, which does not validate it any more
        del histories[0][0]
    assert histories[0] == histories[1]
