"""The folder of a run, where processes do not begin in the same second."""

from pathlib import Path

import pytest
from pytorch_lightning import Trainer

from callbacks import RunFolder
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
