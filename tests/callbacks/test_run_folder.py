"""The folder of a run: the processes of a run agree on it, and no other run gets into it."""

import multiprocessing
from pathlib import Path

import pytest
from filelock import FileLock
from pytorch_lightning import Trainer

from callbacks import RunFolder, run_folder
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
    other = context.Process(target=hold, args=(tmp_path, held))
    other.start()
    assert held.wait(60)
    (tmp_path / "config.yaml").write_text("config: the other's")
    monkeypatch.setattr(run_folder, "PATIENCE", 0.2)
    with pytest.raises(FileExistsError, match="another process trains in"):
        fit()
    assert (tmp_path / "config.yaml").read_text() == "config: the other's"
    assert not (tmp_path / "log.txt").exists()
    monkeypatch.setattr(run_folder, "PATIENCE", 60.0)
    other.kill()
    callback, trainer = fit()  # waits until the system has released the lock
    assert (tmp_path / "config.yaml").read_text() == "config: mine"
    callback.on_exception(trainer, network, KeyboardInterrupt())
    callback, trainer = fit()
    callback.teardown(trainer, network, "fit")
    fit()[0].teardown(trainer, network, "fit")
