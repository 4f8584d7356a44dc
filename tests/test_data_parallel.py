"""Training in several processes (gloo) is training in one on the same global batches."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.optim import Optimizer

import main
from callbacks import WholeCheckpointIO, with_those_of_every_run
from datamodules import BatchAugment, Digits
from lightning_modules import DCGAN, Classifier, MiniVGGNet

PROJECT = Path(main.__file__).parent
STEPS = 1212 // 60  # an epoch


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked processes cannot use CUDA once this one has; Lightning asks it for the state of its generator."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


class Frozen(MiniVGGNet):
    """Without dropout, and with constant BatchNorm: then the loss of a batch is the mean of those of its parts."""

    def __init__(self) -> None:
        super().__init__(10, 16, pool_dropout=0.0, hidden_dropout=0.0)
        self.train()

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


class Small(Classifier):
    """A network whose steps magnify rounding little."""

    def __init__(self) -> None:
        super().__init__(10, 16, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9))
        layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 7 * 7, 10)]
        self.net = nn.Sequential(*layers)


class Gradients(Callback):
    """Writes each process's gradients of the first step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if not trainer.global_step:
            gradients = {name: weight.grad for name, weight in pl_module.named_parameters()}
            torch.save(gradients, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


class Losses(Callback):
    """Writes the mean loss of each global batch, and a checkpoint after four steps."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.losses: dict[int, float] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: object, batch_idx: int
    ) -> None:
        self.losses[trainer.global_step] = trainer.strategy.reduce(outputs["loss"].clone(), reduce_op="mean").item()
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.file.with_suffix(".ckpt"))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.file.write_text(json.dumps(self.losses))


class Asked(Callback):
    """Counts the messages by which Lightning's processes would ask each other in each step whether to end."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.broadcast = Mock(wraps=torch.distributed.broadcast)
        torch.distributed.broadcast = self.broadcast

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.file.write_text(str(self.broadcast.call_count))


def fit(
    folder: Path,
    shards: Path,
    processes: int,
    *callbacks: Callback,
    network: Callable[[], Classifier] = Small,
    ckpt_path: str | None = None,
    **arguments: object,
) -> Classifier:
    """The network, trained by so many forked processes."""
    seed_everything(3, verbose=False)
    augment = BatchAugment(crop=16, flip=0.5)
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        default_root_dir=folder,
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[WholeCheckpointIO()],
        callbacks=with_those_of_every_run(list(callbacks), "", ""),
        **arguments,
    )
    trained = network()
    trainer.fit(trained, datamodule=Digits(root=str(shards), batch_size=60, batch_augment=augment), ckpt_path=ckpt_path)
    return trained


@pytest.mark.parametrize(("precision", "tolerance"), [("64-true", 1e-12), ("32-true", 1e-5)])
def test_gradients_are_those_of_one_process(tmp_path: Path, shards: Path, precision: str, tolerance: float) -> None:
    """To ``tolerance`` of the largest gradient of a layer, in every process; float32 has 2**-24 = 6e-8."""
    for processes in (1, 2, 4):
        fit(tmp_path, shards, processes, Gradients(tmp_path), network=Frozen, max_steps=1, precision=precision)
    whole = torch.load(tmp_path / "1-0.pt")
    assert len(whole) == 22  # weights and biases of eleven layers
    for processes in (2, 4):
        for rank in range(processes):
            for name, gradient in torch.load(tmp_path / f"{processes}-{rank}.pt").items():
                assert gradient.abs().max() > 0
                error = (gradient - whole[name]).abs().max() / whole[name].abs().max()
                assert error <= tolerance, (processes, rank, name)


def test_the_loss_of_50_steps_is_that_of_one_process(tmp_path: Path, shards: Path) -> None:
    for processes, more in ((1, []), (2, [Asked(tmp_path / "asked.txt")])):
        losses = Losses(tmp_path / f"{processes}.json")
        fit(tmp_path / str(processes), shards, processes, losses, *more, max_steps=50)
    assert (tmp_path / "asked.txt").read_text() == "0"
    one, two = (json.loads((tmp_path / f"{processes}.json").read_text()) for processes in (1, 2))
    assert list(one) == list(two) == [str(step) for step in range(1, 51)]
    assert sum(list(one.values())[-10:]) < sum(list(one.values())[:10])
    assert list(two.values()) == pytest.approx(list(one.values()), abs=1e-5)
    assert_same_history(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_a_run_goes_on_in_another_number_of_processes(tmp_path: Path, shards: Path, before: int, after: int) -> None:
    """In the middle of an epoch: the same batches, and the same history."""
    fit(tmp_path / "whole", shards, before, Losses(tmp_path / "whole.json"), max_epochs=2)
    ckpt_path = str(tmp_path / "whole.ckpt")
    fit(tmp_path / "rest", shards, after, Losses(tmp_path / "rest.json"), max_epochs=2, ckpt_path=ckpt_path)
    whole, rest = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "rest"))
    assert list(rest) == [str(step) for step in range(5, 2 * STEPS + 1)]
    assert list(rest.values()) == pytest.approx(list(whole.values())[4:], abs=1e-5)
    assert_same_history(tmp_path / "whole", tmp_path / "rest")


def assert_same_history(one: Path, other: Path) -> None:
    first, second = (json.loads((folder / "history.json").read_text()) for folder in (one, other))
    assert len(first) == len(second)
    for expected, found in zip(first, second, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def batch_norm() -> MiniVGGNet:
    return MiniVGGNet(10, 16)


def test_batch_norm_has_the_statistics_of_a_part_of_the_batch(tmp_path: Path, shards: Path) -> None:
    """What ``sync_batchnorm`` is for."""
    one, two = (fit(tmp_path, shards, n, network=batch_norm, max_steps=1).net[0][2].running_mean for n in (1, 2))
    assert (one - two).abs().max() > 1e-3 * one.abs().max()


SHARDED = """
import sys

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

from callbacks import with_those_of_every_run
from datamodules import Digits
from lightning_modules import Classifier


class Large(Classifier):
    def __init__(self) -> None:
        super().__init__(10, 32, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), nn.Linear(16, 10))

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def trainer(folder, epochs, strategy):
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=2 if strategy else 1,
        strategy=strategy or "auto",
        default_root_dir=folder,
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        callbacks=with_those_of_every_run([], "", ""),
    )


def sharded():
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False)


root, name = sys.argv[1:]
for epochs, last in ((1, None), (2, name + "/checkpoints/last.ckpt")):
    seed_everything(1)
    fitting = trainer(name, epochs, sharded() if name == "sharded" else None)
    fitting.fit(Large(), datamodule=Digits(root=root, batch_size=128), ckpt_path=last)
"""


@pytest.mark.slow
def test_sharded_weights_train_as_whole_ones_do(tmp_path: Path, shards: Path) -> None:
    """In two processes, continued after an epoch, with checkpoints that one process can read."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    for name in ("sharded", "whole"):
        script = [sys.executable, "sharded.py", str(shards), name]
        subprocess.run(script, cwd=tmp_path, env=environment, check=True, timeout=300)
    assert_same_history(tmp_path / "sharded", tmp_path / "whole")
    one, other = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("sharded", "whole")
    )
    for name, weight in other.items():
        torch.testing.assert_close(one[name], weight, rtol=0, atol=1e-5)


class Weights(Callback):
    """Writes each process's weights at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
def test_two_networks_that_train_in_turns_are_the_same_in_all_processes(shards: Path, tmp_path: Path) -> None:
    seed_everything(3, verbose=False)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork_find_unused_parameters_true",
        default_root_dir=tmp_path,
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[WholeCheckpointIO()],
        callbacks=with_those_of_every_run([Weights(tmp_path)], "", "", classifies=False),
        max_epochs=1,
        limit_train_batches=3,
    )
    model = DCGAN(10, 32, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer.fit(model, datamodule=Digits(root=str(shards), batch_size=60, normalization="symmetric"))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, weight in before.items():
        assert torch.equal(first[name], second[name]), name
        assert not torch.equal(first[name], weight), name
