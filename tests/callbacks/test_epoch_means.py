"""Means of an epoch: what is counted, and when."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from sklearn.metrics import log_loss
from torch.utils.data import DataLoader, TensorDataset

from callbacks import EpochMeans, MeanLoss, TopKAccuracy
from callbacks.epoch_means import BATCHES
from lightning_modules import Classifier

LOGITS = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.arange(10) % 3


class Still(Classifier):
    """Logits are the input, and training changes nothing."""

    def __init__(self) -> None:
        super().__init__(3, 1, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
        self.net = torch.nn.Linear(3, 3, bias=False)
        torch.nn.init.eye_(self.net.weight)


class MeanLabel(EpochMeans):
    """The mean class number, and how many samples were seen."""

    def __init__(self) -> None:
        self.samples = 0

    def sums(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.samples += len(outputs["labels"])
        return {"label": outputs["labels"].sum()}


def fit(folder: Path, *callbacks: Callback, **flags: int) -> Trainer:
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **flags,
    )
    loader = DataLoader(TensorDataset(LOGITS, LABELS), batch_size=4)
    trainer.fit(Still(), loader, loader)
    return trainer


@pytest.mark.parametrize("batches", [1, BATCHES - 1, BATCHES, BATCHES + 1, 3 * BATCHES])
def test_batches_of_any_number_and_size(batches: int) -> None:
    """Loss and label are means over the samples, whatever is summed together."""
    generator = torch.Generator().manual_seed(batches)
    sizes = torch.randint(1, 5, (batches,), generator=generator).tolist()
    losses = torch.rand(batches, generator=generator)
    labels = [torch.randint(3, (size,), generator=generator) for size in sizes]
    logged: dict[str, float] = {}
    trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda sums, reduce_op: sums))
    module = SimpleNamespace(log=lambda name, value, prog_bar: logged.update({name: value.item()}))
    for means in (MeanLoss(), MeanLabel()):
        means.setup(trainer, module, "test")
        for loss, own in zip(losses, labels, strict=True):
            outputs = {"loss": loss, "logits": torch.zeros(len(own), 3), "labels": own}
            means.on_test_batch_end(trainer, module, outputs, None, 0)
        means.on_test_epoch_end(trainer, module)
    assert logged["test/label"] == pytest.approx(torch.cat(labels).double().mean().item(), rel=1e-12)
    assert logged["test/loss"] == pytest.approx(np.average(losses.double(), weights=sizes), rel=1e-12)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_loss_is_that_of_the_samples_however_many_batches_a_step_accumulates(
    tmp_path: Path, accumulated: int
) -> None:
    metrics = fit(tmp_path, MeanLoss(), accumulate_grad_batches=accumulated).callback_metrics
    assert metrics["train/loss"].item() == pytest.approx(log_loss(LABELS, LOGITS.double().softmax(dim=1)), rel=1e-6)


def test_the_sanity_check_counts_for_nothing(tmp_path: Path) -> None:
    means = MeanLabel()
    metrics = fit(tmp_path, means, num_sanity_val_steps=2).callback_metrics
    assert means.samples == 10 + 10  # of training and of validation
    assert metrics["val/label"].item() == metrics["train/label"].item() == pytest.approx(0.9)  # 0 1 2 0 1 2 0 1 2 0


def test_training_and_several_validations_in_an_epoch_are_kept_apart(tmp_path: Path) -> None:
    """Each validation logs its own mean, and the training mean is that of the whole epoch."""
    seen = []

    class Reader(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.append(trainer.callback_metrics["val/label"].item())

    flags = {"val_check_interval": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    metrics = fit(tmp_path, MeanLabel(), Reader(), **flags).callback_metrics
    assert seen == pytest.approx([0.75] * 3)  # 0 1 2 0
    assert metrics["train/label"].item() == pytest.approx(0.9)


def test_processes_are_weighted_by_their_samples() -> None:
    """One process saw classes 0 and 2, the other only 2: the mean is 4 / 3, not that of 1 and 2."""
    other = torch.tensor([2.0, 1.0])  # its sum and its count
    logged = {}
    trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda sums, reduce_op: sums + other))
    module = SimpleNamespace(log=lambda name, value, prog_bar: logged.update({name: value.item()}))
    means = MeanLabel()
    means.setup(trainer, module, "test")
    outputs = {"loss": torch.tensor(1.0), "logits": torch.zeros(2, 3), "labels": torch.tensor([0, 2])}
    means.on_test_batch_end(trainer, module, outputs, None, 0)
    means.on_test_epoch_end(trainer, module)
    assert logged == {"test/label": pytest.approx(4 / 3)}


def test_more_classes_asked_for_than_there_are(tmp_path: Path) -> None:
    assert not fit(tmp_path, TopKAccuracy((5,))).callback_metrics
