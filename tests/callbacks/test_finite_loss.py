"""A run whose loss is no number ends, says where, and keeps its last good checkpoint."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks import WholeCheckpointIO, with_those_of_every_run
from callbacks.finite_loss import remedy
from datamodules import Digits
from lightning_modules import Classifier

STEPS = 1212 // 32  # an epoch: two windows of sixteen batches and five more


class Breaking(Classifier):
    """A network whose loss is bad in one step."""

    def __init__(self, step: int, bad: float) -> None:
        super().__init__(10, 8, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
        self.step, self.bad = step, bad

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        outputs = super().training_step(batch, batch_idx)
        outputs["loss"] = outputs["loss"] * (self.bad if self.global_step == self.step else 1.0)
        return outputs


class Watch(Callback):
    """How far a run came."""

    step = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        self.step = trainer.global_step


def trainer_in(folder: Path, *callbacks: Callback) -> Trainer:
    return Trainer(
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [0, 15, 16, 36])
def test_the_step_is_named_and_the_last_good_checkpoint_stays(
    tmp_path: Path, shards: Path, step: int, bad: float
) -> None:
    watch = Watch()
    trainer = trainer_in(tmp_path, watch)
    data = Digits(root=str(shards), image_size=8, batch_size=32)
    place = f"the loss is {bad} in epoch 2, step {step + 1} of {STEPS};"
    with pytest.raises(ValueError, match=place):
        trainer.fit(Breaking(STEPS + step, bad), datamodule=data)
    assert watch.step <= STEPS + step + 32  # within two windows
    for name in ("best", "last"):
        checkpoint = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["global_step"] == STEPS
        assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())


def test_the_step_is_named_if_a_callback_before_saves_within_the_epoch(tmp_path: Path, shards: Path) -> None:
    class Saves(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
            if trainer.global_step == 6:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")

    with pytest.raises(ValueError, match=f"the loss is inf in epoch 1, step 4 of {STEPS};"):
        trainer_in(tmp_path, Saves()).fit(
            Breaking(3, float("inf")), datamodule=Digits(root=str(shards), image_size=8, batch_size=32)
        )
    assert not (tmp_path / "saved.ckpt").exists()


@pytest.mark.parametrize("automatic", [True, False])
def test_clipping_is_recommended_where_lightning_can_clip(automatic: bool) -> None:
    network = LightningModule()
    network.automatic_optimization = automatic
    assert ("gradient_clip_val" in remedy(network)) == automatic
    assert "Lower the learning rate" in remedy(network)


def test_a_checkpoint_within_an_epoch_is_not_replaced_either(tmp_path: Path, shards: Path) -> None:
    """The weights are finite still: the loss alone tells, of a step that nobody has looked at yet."""

    class Added(Breaking):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
            outputs = Classifier.training_step(self, batch, batch_idx)
            return {**outputs, "loss": outputs["loss"] + (self.bad if self.global_step == self.step else 0.0)}

    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
            if trainer.global_step == 6:
                trainer.save_checkpoint(tmp_path / "sixth.ckpt")

    trainer, data = trainer_in(tmp_path), Digits(root=str(shards), image_size=8, batch_size=32)
    trainer.callbacks.append(Save())
    with pytest.raises(ValueError, match=f"the loss is inf in epoch 1, step 4 of {STEPS};"):
        trainer.fit(Added(3, float("inf")), datamodule=data)
    assert not (tmp_path / "sixth.ckpt").exists()


def test_weights_that_the_last_step_has_spoilt_replace_no_checkpoint(tmp_path: Path, shards: Path) -> None:
    """The loss of that step is finite; its gradient is not."""

    class Spoilt(Breaking):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            if self.global_step == 2 * STEPS - 1:
                self.net[1].bias.grad.fill_(float("inf"))

    words = f"weights are no longer finite after step {2 * STEPS}, in epoch 2; the checkpoints are those of earlier"
    with pytest.raises(ValueError, match=words):
        trainer_in(tmp_path).fit(Spoilt(-1, 1.0), datamodule=Digits(root=str(shards), image_size=8, batch_size=32))
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == STEPS
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())
