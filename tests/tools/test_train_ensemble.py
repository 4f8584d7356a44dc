"""Ensembles of seeds: trained once, averaged from what their tests have stored, and resumed."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from callbacks.prediction_store import Predictions
from tools import train_ensemble

QUICK = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "6", "--trainer.accelerator", "cpu"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


@pytest.fixture
def train(call: Callable, shards: Path) -> Callable:
    """Calls the tool."""
    return lambda *args: call(train_ensemble, *args, "--data.root", shards, *QUICK, *QUIET)


def test_members_are_trained_once_and_averaged(train: Callable, commands: list[Sequence[str]], tmp_path: Path) -> None:
    arguments = ["quickstart_digits", "--name", "x", "--seeds", "1", "2"]
    runs = tmp_path / "runs/quickstart_digits"
    printed = train(*arguments).out
    first, second = (Predictions.load(runs / f"x-seed{seed}") for seed in (1, 2))
    assert np.abs(first.probabilities - second.probabilities).max() > 0.05
    found = Predictions.load(runs / "x-ensemble")
    np.testing.assert_allclose(found.probabilities, (first.probabilities + second.probabilities) / 2, atol=1e-7)
    figures = json.loads((runs / "x-ensemble/report/ensemble.json").read_text())
    tested = [json.loads((runs / f"x-seed{s}/report/metrics.json").read_text())["test/top1"] for s in (1, 2)]
    assert list(figures["members"].values()) == pytest.approx(tested)
    assert figures["mean"] == pytest.approx(sum(tested) / 2)
    assert figures["ensemble"] == (found.probabilities.argmax(axis=1) == found.labels).mean()
    assert f"{100 * figures['ensemble']:.2f}" in printed

    # interrupted after the first member: that one is not trained again, the other and the mean are made anew
    kept = (runs / "x-seed1/checkpoints/last.ckpt").stat().st_mtime_ns
    shutil.rmtree(runs / "x-seed2")
    shutil.rmtree(runs / "x-ensemble")
    commands.clear()
    train(*arguments)
    (command,) = commands
    assert "x-seed2" in command
    assert (runs / "x-seed1/checkpoints/last.ckpt").stat().st_mtime_ns == kept
    assert json.loads((runs / "x-ensemble/report/ensemble.json").read_text()) == figures

    other = Predictions.load(runs / "x-seed2")
    for change in ({"split": "0"}, {"rows": other.rows[::-1]}):
        replace(other, **change).save(runs / "x-seed2/report/probabilities.h5")
        assert "x-seed2 was tested on other pictures than" in train(*arguments).err


def test_refused(train: Callable) -> None:
    assert "each seed once" in train("quickstart_digits", "--seeds", "1", "1").err
    assert "there is no experiments/none.yaml" in train("none", "--seeds", "1").err
