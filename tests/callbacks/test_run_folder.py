"""The folder of a run: the processes of a run agree on it, and no other run gets into it."""

import multiprocessing
from functools import reduce
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from pytorch_lightning import Trainer

from callbacks import RunFolder, run_folder
from callbacks.prediction_store import OF_VALIDATION, PROBABILITIES, Predictions
from lightning_modules import MiniVGGNet


@pytest.mark.parametrize("first", [True, False])
def test_all_processes_take_the_folder_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path / "mine", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(trainer.strategy, "broadcast", lambda mine: str(tmp_path / "of the first"))
    monkeypatch.setattr(type(trainer.strategy), "is_global_zero", first)
    RunFolder("config: 1", "main.py fit").setup(trainer, MiniVGGNet(10, 32), "fit")
    assert trainer.default_root_dir == str(tmp_path / "of the first")
    assert (tmp_path / "of the first/config.yaml").exists() == first
    assert not (tmp_path / "mine").exists()


def hold(folder: Path, held: multiprocessing.Event) -> None:
    with FileLock(folder / run_folder.LOCK):
        held.set()
        multiprocessing.Event().wait()


def test_one_training_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit() -> tuple[RunFolder, Trainer]:
        trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_checkpointing=False)
        callback = RunFolder("config: mine", "main.py fit")
        callback.setup(trainer, network, "fit")
        return callback, trainer

    network = MiniVGGNet(10, 32)
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=hold, args=(tmp_path, held), daemon=True)
    other.start()
    try:
        assert held.wait(60)
        (tmp_path / "config.yaml").write_text("config: the other's")
        monkeypatch.setattr(run_folder, "PATIENCE", 0.2)
        with pytest.raises(FileExistsError, match="another process trains in"):
            fit()
        assert (tmp_path / "config.yaml").read_text() == "config: the other's"
        assert not (tmp_path / "log.txt").exists()
    finally:
        other.kill()
    monkeypatch.setattr(run_folder, "PATIENCE", 60.0)
    callback, trainer = fit()  # waits until the system has released the lock
    assert (tmp_path / "config.yaml").read_text() == "config: mine"
    callback.on_exception(trainer, network, KeyboardInterrupt())
    callback, trainer = fit()
    callback.teardown(trainer, network, "fit")
    fit()[0].teardown(trainer, network, "fit")


@pytest.mark.parametrize(
    "name",
    [
        *("data.class_path", "trainer.limit_test_batches", "trainer.limit_predict_batches", "trainer.fast_dev_run"),
        *("data.init_args.views", "data.init_args.image_size", "data.init_args.normalization"),
        *("data.init_args.encoding", "data.init_args.jpeg_quality", "data.init_args.val_fraction"),
        *("data.init_args.test_fraction", "data.init_args.split_seed", "data.init_args.folds", "data.init_args.fold"),
        *("data.init_args.validate_on_test", "data.init_args.batch_augment.init_args.crop"),
        *("data.init_args.transforms", "data.init_args.batch_augment"),
        *("data.init_args.upscale_factor", "data.init_args.windows_per_photograph", "trainer.limit_val_batches"),
    ],
)
def test_a_report_of_other_settings_needs_another_folder(tmp_path: Path, name: str) -> None:
    def config(value: int) -> str:
        return reduce(lambda inner, key: f"{{{key}: {inner}}}", reversed(name.split(".")), str(value))

    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_checkpointing=False)
    (tmp_path / "config.yaml").write_text(config(1))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.ckpt").touch()
    with pytest.raises(FileExistsError, match=f"where {name} is 1, not 2; choose a --name for another"):
        RunFolder(config(2), "main.py test").setup(trainer, MiniVGGNet(10, 32), "test")


@pytest.mark.parametrize(
    ("stage", "split", "name"), [("test", "test", PROBABILITIES), ("validate", "val", OF_VALIDATION)]
)
def test_a_report_of_other_pictures_needs_another_folder(tmp_path: Path, stage: str, split: str, name: str) -> None:
    """The same pictures may have been moved."""
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_checkpointing=False)
    (tmp_path / "config.yaml").write_text("data: {init_args: {source: here}}")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.ckpt").touch()
    rows = np.arange(2)
    Predictions(np.full((2, 2), 0.5, np.float32), rows, rows, ["a", "b"], f"these of {split}").save(tmp_path / name)
    elsewhere = RunFolder("data: {init_args: {source: there}}", "main.py")
    trainer.datamodule = SimpleNamespace(checksum_of="these of {}".format)
    elsewhere.setup(trainer, MiniVGGNet(10, 32), stage)
    trainer.datamodule = SimpleNamespace(checksum_of="others of {}".format)
    with pytest.raises(FileExistsError, match="source is here, not there; choose a --name for another"):
        elsewhere.setup(trainer, MiniVGGNet(10, 32), stage)
    elsewhere.setup(trainer, MiniVGGNet(10, 32), "predict")  # has no report
