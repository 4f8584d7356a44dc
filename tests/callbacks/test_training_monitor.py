"""History: one record an epoch, valid JSON whatever happens, and a picture of it."""

import json
import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from callbacks import MeanLoss, StepSchedule, TopKAccuracy, TrainingMonitor, training_monitor
from callbacks.step_clock import StepClock
from callbacks.training_monitor import best_epoch, both_stages, draw, line, write
from lightning_modules import Classifier

HISTORY = [
    {"epoch": 1, "step": 5, "lr": 0.1, "train/loss": 2.0, "val/loss": 1.5, "train/top1": 0.3, "val/top1": 0.4},
    {"epoch": 2, "step": 10, "lr": 0.1, "train/loss": 1.0, "val/loss": 1.2, "train/top1": 0.6, "val/top1": 0.5},
    {"epoch": 3, "step": 15, "lr": 0.01, "train/loss": None, "val/loss": 1.4, "train/top1": 0.7, "val/top1": 0.5},
]


def test_the_file_is_json_and_replaced_as_a_whole(tmp_path: Path) -> None:
    write(HISTORY[:1], tmp_path / "history.json")
    write(HISTORY, tmp_path / "history.json")
    assert json.loads((tmp_path / "history.json").read_text()) == HISTORY
    assert [path.name for path in tmp_path.iterdir()] == ["history.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write([{"epoch": 1, "train/loss": float("nan")}], tmp_path / "history.json")


def test_the_best_epoch_is_the_first_of_equals() -> None:
    assert best_epoch(HISTORY) == 2
    assert best_epoch([{**record, "val/top1": None} for record in HISTORY]) == 2  # by loss then
    assert best_epoch([{"epoch": 1, "train/loss": 1.0}]) is None


def test_the_line_of_an_epoch() -> None:
    assert line(HISTORY[0], 40) == "epoch  1/40  loss 2.0000 / 1.5000  top-1 30.0 / 40.0 %  lr 0.1"
    assert line({"epoch": 7, "step": 1, "lr": 0.1}, None) == "epoch 7  lr 0.1"
    assert np.isnan(both_stages(HISTORY[2], "loss")[0])


@pytest.mark.parametrize("records", [1, 3])
def test_the_picture_shows_something(tmp_path: Path, records: int) -> None:
    draw(HISTORY[:records], tmp_path / "history.png")
    pixels = np.asarray(Image.open(tmp_path / "history.png").convert("RGB"))
    assert pixels.shape[0] >= 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures in place of their files."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (figures.append(figure), path.touch()))
    return figures


def test_the_picture_shows_the_history_and_marks_the_best_epoch(tmp_path: Path, drawn: list[Figure]) -> None:
    draw(HISTORY, tmp_path / "history.png")
    (figure,) = drawn
    for axes, metric, scale, best in zip(figure.axes, ("loss", "top1"), (1, 100), ("1.2", "50"), strict=False):
        lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
        for stage, label in (("train", "training"), ("val", "validation")):
            known = [epoch for epoch in HISTORY if epoch[f"{stage}/{metric}"] is not None]
            assert lines[label] == [[epoch["epoch"], scale * epoch[f"{stage}/{metric}"]] for epoch in known]
        assert lines[f"epoch 2: {best}"] == [[2, float(best)]]


@pytest.mark.parametrize("records", [1, 2, 3])
def test_epochs_are_whole_numbers(tmp_path: Path, drawn: list[Figure], records: int) -> None:
    draw(HISTORY[:records], tmp_path / "history.png")
    assert drawn[0].axes[0].get_yscale() == "linear"
    for axes in drawn[0].axes:
        first, last = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if first <= tick <= last] == list(range(1, records + 1))


def test_one_loss_that_explodes_leaves_the_others_to_be_seen(tmp_path: Path, drawn: list[Figure]) -> None:
    draw([*HISTORY, {"epoch": 4, "lr": 0.01, "train/loss": 0.9, "val/loss": 656.0}], tmp_path / "history.png")
    assert drawn[0].axes[0].get_yscale() == "log"


class Linear(Classifier):
    """A linear classifier of three numbers."""

    def __init__(self) -> None:
        super().__init__(3, 1, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9))
        self.net = torch.nn.Linear(3, 3, bias=False)
        torch.nn.init.eye_(self.net.weight)


class Checkpoints(ModelCheckpoint):
    """``<run>/<epoch>.ckpt``, and the proof that the history had that epoch already."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "{epoch}", auto_insert_metric_name=False, save_top_k=-1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert history(Path(trainer.default_root_dir))[-1]["epoch"] == trainer.current_epoch + 1
        super().on_train_epoch_end(trainer, pl_module)


def fit(folder: Path, resume: Path | None = None, model: Linear | None = None, **flags: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[StepSchedule({2: 0.05}), MeanLoss(), TopKAccuracy((1,)), TrainingMonitor(), Checkpoints(folder)],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **flags,
    )
    images = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(images, torch.arange(10) % 3), batch_size=4)
    trainer.fit(model or Linear(), loader, loader, ckpt_path=resume)
    return trainer


def history(folder: Path) -> list[dict[str, float | None]]:
    return json.loads((folder / "history.json").read_text())


def test_a_record_and_a_line_for_each_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "litvision"):
        metrics = fit(tmp_path, max_epochs=2).callback_metrics
    first, last = history(tmp_path)
    assert [(r["epoch"], r["step"], r["lr"]) for r in (first, last)] == [(1, 3, 0.1), (2, 6, 0.05)]
    measured = {name: last[name] for name in ("train/loss", "train/top1", "val/loss", "val/top1")}
    assert measured == {name: value.item() for name, value in metrics.items()}
    lines = [record.getMessage() for record in caplog.records if record.name == "litvision"]
    number = r"\d\.\d{4}"
    assert re.fullmatch(
        rf"epoch 2/2  loss {number} / {number}  top-1 \d+\.0 / \d+\.0 %  lr 0\.05  [\d ]+ images/s  \d+\.\d s"
        r"(  waited for data \d+ %)?",
        lines[-1],
    )


class Slow(Dataset):
    """Two samples, each of which takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(self.seconds)
        return torch.ones(3), 0


class SlowLinear(Linear):
    """Thinks for a tenth of a second."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        time.sleep(0.1)
        return super().training_step(batch, batch_idx)


def test_where_the_time_of_an_epoch_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    time = SimpleNamespace(now=0.0, perf_counter=lambda: time.now)
    monkeypatch.setattr("callbacks.step_clock.time", time)
    clock = StepClock()
    for time.now, event in (
        (0.5, clock.step_begins),
        (1.5, lambda: clock.step_ends(8)),
        (2.0, clock.pause),
        (4.0, clock.go_on),
        (4.5, clock.step_begins),
        (5.5, lambda: clock.step_ends(4)),
    ):
        event()
    assert clock.seconds == 5.5
    assert clock.images_per_second == 12 / 3.5
    assert clock.data_wait == 1.5 / 3.5


def test_the_speed_is_that_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepClock, "images_per_second", 10.0)
    monkeypatch.setattr(Trainer, "world_size", 3)
    fit(tmp_path, max_epochs=1)
    (timing,) = json.loads((tmp_path / "timings.json").read_text())
    assert timing["images_per_second"] == 30


@pytest.mark.parametrize(("model", "seconds", "least", "most"), [(Linear(), 0.2, 0.6, 1), (SlowLinear(), 0, 0, 0.6)])
def test_the_share_of_time_that_training_waits_for_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: Linear, seconds: float, least: float, most: float
) -> None:
    """Validation in the middle of the epoch is no waiting, however slow."""
    flags = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = [MeanLoss(), TrainingMonitor()]
    trainer = Trainer(default_root_dir=tmp_path, max_epochs=1, val_check_interval=1, callbacks=callbacks, **flags)
    with caplog.at_level(logging.INFO, "litvision"):
        trainer.fit(model, DataLoader(Slow(seconds)), DataLoader(Slow(0.2)))
    (timing,) = json.loads((tmp_path / "timings.json").read_text())
    assert least <= timing["data_wait"] <= most
    assert ("waited for data" in caplog.text) == (timing["data_wait"] > 0.1)


def test_the_file_of_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path: Path) -> None:
    fit(tmp_path / "whole", max_epochs=4)
    whole = (tmp_path / "whole/history.json").read_bytes()
    fit(tmp_path / "parts", max_epochs=4)
    # as after a crash in the third epoch's checkpoint: the history knows more than the checkpoint
    fit(tmp_path / "parts", tmp_path / "parts/1.ckpt", max_epochs=4)
    assert (tmp_path / "parts/history.json").read_bytes() == whole
    fit(tmp_path / "whole", max_epochs=1)  # not resumed: a new history
    assert len(history(tmp_path / "whole")) == 1


def test_a_resume_by_steps_neither_loses_nor_invents_an_epoch(tmp_path: Path) -> None:
    """Lightning ends the checkpoint's last epoch a second time there."""
    fit(tmp_path, max_epochs=2)
    fit(tmp_path, tmp_path / "1.ckpt", max_epochs=-1, max_steps=9)
    assert [(record["epoch"], record["step"]) for record in history(tmp_path)] == [(1, 3), (2, 6), (3, 9)]


def test_an_epoch_without_validation_has_none(tmp_path: Path) -> None:
    fit(tmp_path, max_epochs=3, check_val_every_n_epoch=2)
    assert ["val/loss" in record for record in history(tmp_path)] == [False, True, False]


def test_a_diverged_run_leaves_valid_json(tmp_path: Path) -> None:
    model = Linear()
    torch.nn.init.constant_(model.net.weight, float("nan"))
    fit(tmp_path, model=model, max_epochs=2)
    last = history(tmp_path)[-1]
    assert last["train/loss"] is None
    assert last["val/top1"] == 0


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    monkeypatch.setattr(Checkpoints, "on_train_epoch_end", lambda *_: None)
    fit(tmp_path, max_epochs=1)
    assert not list(tmp_path.iterdir())


def test_short_epochs_share_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(training_monitor, "draw", lambda history, *_: drawn.append(len(history)))
    fit(tmp_path, max_epochs=3)
    assert drawn == [1, 3]  # the last at once: a checkpoint follows
    drawn.clear()
    monkeypatch.setattr(TrainingMonitor, "on_train_end", lambda *_: None)
    fit(tmp_path, max_epochs=3)
    assert drawn == [1, 3]
    monkeypatch.undo()
    drawn.clear()
    monkeypatch.setattr(training_monitor, "draw", lambda history, *_: drawn.append(len(history)))
    fit(tmp_path, max_epochs=-1, max_steps=9)
    assert drawn == [1, 3]
    drawn.clear()
    monkeypatch.setattr(training_monitor, "PAUSE", 0.0)
    fit(tmp_path, max_epochs=3)
    assert drawn == [1, 2, 3]
    TrainingMonitor().on_exception(None, None, KeyboardInterrupt())  # before the first epoch


def test_a_picture_that_fails_is_said_once_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "history.png").mkdir()
    fit(tmp_path, max_epochs=2)
    assert caplog.text.count("history.png cannot be written (Is a directory); the run goes on without it") == 1
    assert len(history(tmp_path)) == 2


@pytest.mark.parametrize("late", [MeanLoss(), TopKAccuracy()])
def test_metrics_are_listed_before_the_monitor(tmp_path: Path, late: Callback) -> None:
    trainer = Trainer(accelerator="cpu", callbacks=[TrainingMonitor(), late], default_root_dir=tmp_path, logger=False)
    with pytest.raises(ValueError, match="list it after"):
        trainer.fit(Linear(), DataLoader([(torch.ones(3), 0)]))
