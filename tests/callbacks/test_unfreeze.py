"""What is frozen, when, under which optimizer, and after an interruption."""

from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from callbacks import PolyDecay, Unfreeze, WholeCheckpointIO, with_those_of_every_run
from datamodules import Digits
from lightning_modules import Classifier


class Two(Classifier):
    """A body of two blocks, each with running statistics, and a head."""

    def __init__(self) -> None:
        super().__init__(10, 8, optimizer=lambda groups: torch.optim.RMSprop(groups, lr=0.01))
        first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.net = nn.Sequential()
        self.net.add_module("body", nn.Sequential(first, second))
        self.net.add_module("head", nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)))


class Watch(Callback):
    """Weights at each epoch's end, and the optimizers."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.optimizers: list[tuple[str, set[float]]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)
        (optimizer,) = trainer.optimizers
        rates = {round(group["lr"], 6) for group in optimizer.param_groups}
        self.optimizers.append((type(optimizer).__name__, rates))


class Stop(Callback):
    """Ends the run after some step, with a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/stopped.ckpt")
            raise KeyboardInterrupt


def sgd(groups: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.04, momentum=0.9)


def unfreeze() -> Unfreeze:
    return Unfreeze(["net.body"], {3: ["net.body.1"]}, sgd)


def fit(
    folder: Path,
    shards: Path,
    *callbacks: Callback,
    ckpt_path: str | None = None,
    network: Two | None = None,
    val_check_interval: float | int = 1.0,
) -> Trainer:
    seed_everything(3, verbose=False)
    trainer = Trainer(
        max_epochs=4,
        val_check_interval=val_check_interval,
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
        data = Digits(root=str(shards), image_size=8, batch_size=256)
        trainer.fit(network or Two(), datamodule=data, ckpt_path=ckpt_path)
    return trainer


def test_stages(tmp_path: Path, shards: Path) -> None:
    watch = Watch()
    fit(tmp_path, shards, unfreeze(), PolyDecay(), watch)
    assert len(watch.weights) == 5
    for epoch, (before, after) in enumerate(zip(watch.weights, watch.weights[1:], strict=False), start=1):
        for name in before:
            trains = name.startswith("net.head") or (epoch >= 3 and name.startswith("net.body.1"))
            assert torch.equal(before[name], after[name]) != trains, (epoch, name)
    assert watch.optimizers == [
        *[("RMSprop", {0.01}), ("RMSprop", {0.0075})],
        *[("SGD", {0.02}), ("SGD", {0.01})],  # the schedule goes on, from the new rate
    ]


def test_the_optimizer_takes_over_at_the_first_of_several_epochs(tmp_path: Path, shards: Path) -> None:
    watch = Watch()
    fit(tmp_path, shards, Unfreeze(["net.body"], {2: ["net.body.1"], 4: ["net.body.0"]}, sgd), watch)
    assert watch.optimizers == [("RMSprop", {0.01}), *[("SGD", {0.04})] * 3]


def test_statistics_of_frozen_parts_stay_whatever_validates_between(tmp_path: Path, shards: Path) -> None:
    network = Two()
    network.net.body[0][1] = nn.BatchNorm2d(4, affine=False)
    network.net.body[1][1].requires_grad_(False)  # by somebody else; it is unfrozen with the second block
    watch = Watch()
    fit(tmp_path, shards, unfreeze(), watch, network=network, val_check_interval=2)
    for epoch, (before, after) in enumerate(zip(watch.weights, watch.weights[1:], strict=False), start=1):
        for block, moves in ((0, False), (1, epoch >= 3)):
            name = f"net.body.{block}.1.running_mean"
            assert torch.equal(before[name], after[name]) != moves, (epoch, name)


@pytest.mark.parametrize("stop", [3, 8, 10, 14])
def test_an_interruption_changes_nothing(tmp_path: Path, shards: Path, stop: int) -> None:
    assert 1212 // 256 == 4  # steps an epoch
    whole = fit(tmp_path / "whole", shards, unfreeze()).lightning_module.state_dict()
    fit(tmp_path / "parts", shards, unfreeze(), Stop(stop))
    path = str(tmp_path / "parts/stopped.ckpt")
    parts = fit(tmp_path / "parts", shards, unfreeze(), ckpt_path=path).lightning_module.state_dict()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Unfreeze([]), "frozen is empty"),
        (lambda: Unfreeze(["net.body"], {1: ["net.body.1"]}), "names epoch 1"),
        (lambda: Unfreeze(["net.body"], optimizer=sgd), "nothing is"),
    ],
)
def test_impossible_settings(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("unused", [False, True])
def test_several_processes_must_look_for_unused_parameters(unused: bool) -> None:
    strategy = SimpleNamespace(model=SimpleNamespace(find_unused_parameters=unused))
    trainer = SimpleNamespace(world_size=2, strategy=strategy, current_epoch=0)
    with nullcontext() if unused else pytest.raises(ValueError, match="need --trainer.strategy ddp_find_unused"):
        Unfreeze(["net.body"]).on_fit_start(trainer, Two())


def test_unknown_modules_are_named(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match="no module 'net.boddy' to freeze; it has net, net.body, net.head"):
        fit(tmp_path, shards, Unfreeze(["net.boddy"]))
