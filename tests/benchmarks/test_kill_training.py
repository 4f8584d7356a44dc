"""Training that is killed: a few of the kills that the benchmark makes by the dozen."""

import random
from pathlib import Path

import pytest
import torch

from benchmarks.kill_training import difference, kill_and_continue, train
from callbacks.run_folder import LAST

DIGITS = str(Path(__file__).parents[2] / "experiments/quickstart_digits.yaml")


@pytest.mark.slow
def test_five_kills_change_nothing(tmp_path: Path, shards: Path) -> None:
    flags = ["--config", DIGITS, "--data.root", str(shards), "--trainer.max_epochs", "2"]
    train(tmp_path, "first", flags)
    seconds = train(tmp_path, "whole", flags)
    random.seed(1)
    kills = runs = 0
    while kills < 5:
        runs += 1
        run = kill_and_continue(tmp_path, "quickstart_digits", f"killed-{runs}", flags, seconds)
        assert difference(run.folder, tmp_path / "runs/quickstart_digits/whole") is None
        kills += len(run.moments)


def test_differences_are_seen(tmp_path: Path) -> None:
    state = {"state_dict": {"a": torch.zeros(2)}, "optimizer_states": [{"b": [torch.zeros(2)]}], "global_step": 3}
    other = {**state, "optimizer_states": [{"b": [torch.tensor([0.0, 1e-30])]}]}
    for name, each in (("whole", state), ("same", state), ("other", other)):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        torch.save(each, tmp_path / name / LAST)
        (tmp_path / name / "history.json").write_text("[]")
    assert difference(tmp_path / "same", tmp_path / "whole") is None
    assert difference(tmp_path / "other", tmp_path / "whole") == "optimizer_states"
    (tmp_path / "same/history.json").write_text("[1]")
    assert difference(tmp_path / "same", tmp_path / "whole") == "history"
