"""Moving averages of the weights: by hand, in validation, in checkpoints, and after an interruption."""

import copy
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn

from callbacks import EMA, WholeCheckpointIO, with_those_of_every_run
from callbacks.ema import CURRENT
from datamodules import Digits
from lightning_modules import Classifier

STEPS = 1212 // 256  # an epoch


class Small(Classifier):
    """A network with running statistics, which are averaged too, and a counter, which is not."""

    def __init__(self) -> None:
        super().__init__(10, 8, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


class Watch(Callback):
    """Weights after each step, and those that validate."""

    def __init__(self) -> None:
        self.trained: dict[int, dict[str, Tensor]] = {}
        self.validated: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        self.trained[trainer.global_step] = copy.deepcopy(pl_module.state_dict())

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        self.validated[trainer.global_step] = copy.deepcopy(pl_module.state_dict())


class Stop(Callback):
    """Saves a checkpoint after some step, and ends the run there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/stopped.ckpt")
            raise KeyboardInterrupt


def fit(folder: Path, shards: Path, *callbacks: Callback, ckpt_path: str | None = None, **flags: int) -> Trainer:
    seed_everything(3, verbose=False)
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
        **flags,
    )
    data = Digits(root=str(shards), image_size=8, batch_size=256)
    with suppress(SystemExit):  # how Lightning ends after an interruption
        trainer.fit(Small(), datamodule=data, ckpt_path=ckpt_path)
    return trainer


def averages(start: dict[str, Tensor], weights: dict[int, dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """What the weights after each optimizer step give, one number at a time."""
    result = {name: tensor.double() for name, tensor in start.items()}
    for step in sorted(weights):
        kept = min(decay, (1 + step) / (10 + step))
        for name, tensor in weights[step].items():
            result[name] = kept * result[name] + (1 - kept) * tensor.double()
    return result


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_averages_by_hand(tmp_path: Path, shards: Path, decay: float, accumulate: int) -> None:
    seed_everything(3, verbose=False)
    start, watch = Small().state_dict(), Watch()
    fit(tmp_path, shards, watch, EMA(decay), accumulate_grad_batches=accumulate)
    assert max(watch.trained) == 3 * STEPS // accumulate
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    expected, weights = averages(start, watch.trained, decay), dict(Small().named_parameters())
    for name, tensor in checkpoint["state_dict"].items():
        # running statistics move between optimizer steps too
        if name in weights or (accumulate == 1 and tensor.is_floating_point()):
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-4, atol=1e-6)
    last = watch.trained[max(watch.trained)]
    for name, tensor in checkpoint[CURRENT].items():
        assert torch.equal(tensor, last[name]), name
    for name, tensor in checkpoint["state_dict"].items():
        assert torch.equal(tensor, watch.validated[max(watch.validated)][name]), name
    changed = [name for name in last if not torch.equal(last[name], checkpoint["state_dict"][name])]
    assert changed == [name for name in last if "num_batches" not in name] or decay == 0


def test_training_itself_is_the_same_with_averages(tmp_path: Path, shards: Path) -> None:
    without = fit(tmp_path / "without", shards)
    fit(tmp_path / "with", shards, watch := Watch(), EMA(0.9))
    for name, tensor in without.lightning_module.state_dict().items():
        assert torch.equal(tensor, watch.trained[3 * STEPS][name]), name


@pytest.mark.parametrize("stop", [2, STEPS, STEPS + 1])
def test_an_interruption_changes_nothing(tmp_path: Path, shards: Path, stop: int) -> None:
    fit(tmp_path / "whole", shards, EMA(0.8))
    fit(tmp_path / "parts", shards, EMA(0.8), Stop(stop))
    fit(tmp_path / "parts", shards, EMA(0.8), ckpt_path=str(tmp_path / "parts/stopped.ckpt"))
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    for key in ("state_dict", CURRENT):
        for name, tensor in whole[key].items():
            assert torch.equal(tensor, parts[key][name]), (key, name)


def test_tests_take_the_averages(tmp_path: Path, shards: Path) -> None:
    trainer = fit(tmp_path, shards, EMA(0.9))
    path = tmp_path / "checkpoints/last.ckpt"
    averaged = torch.load(path, weights_only=True)["state_dict"]
    model = Small()
    trainer.test(model, datamodule=trainer.datamodule, ckpt_path=str(path), verbose=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, averaged[name]), name


def test_impossible_decay() -> None:
    with pytest.raises(ValueError, match="decay is 1"):
        EMA(1.0)


def test_parts_of_weights_are_refused() -> None:
    trainer = Trainer(accelerator="cpu", strategy=ModelParallelStrategy(), logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="but a part"):
        EMA().setup(trainer, Small(), "fit")


def test_weights_of_sixteen_bits_are_refused() -> None:
    """A thousandth of a difference between two such numbers is often less than the next one is away."""
    trainer = Trainer(accelerator="cpu", precision="bf16-true", logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="take --trainer.precision bf16-mixed"):
        EMA().setup(trainer, Small(), "fit")
    EMA().setup(trainer, Small(), "test")  # which averages nothing
