"""Ensembles of seeds: trained once, averaged from what their tests have stored, and resumed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import main
from callbacks.prediction_store import Predictions

PROJECT = Path(main.__file__).parent
QUICK = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "6", "--trainer.accelerator", "cpu"]


def call(folder: Path, shards: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "tools/train_ensemble.py"), *args, "--data.root", str(shards), *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = ["--trainer.enable_progress_bar", "false"]
    return subprocess.run([*command, *quiet], capture_output=True, text=True, cwd=folder, env=environment)


def test_members_are_trained_once_and_averaged(shards: Path, tmp_path: Path) -> None:
    arguments = ["quickstart_digits", "--name", "x", "--seeds", "1", "2"]
    runs = tmp_path / "runs/quickstart_digits"
    done = call(tmp_path, shards, *arguments)
    assert done.returncode == 0, done.stderr
    first, second = (Predictions.load(runs / f"x-seed{seed}") for seed in (1, 2))
    assert np.abs(first.probabilities - second.probabilities).max() > 0.05
    found = Predictions.load(runs / "x-ensemble")
    np.testing.assert_allclose(found.probabilities, (first.probabilities + second.probabilities) / 2, atol=1e-7)
    figures = json.loads((runs / "x-ensemble/report/ensemble.json").read_text())
    tested = [json.loads((runs / f"x-seed{s}/report/metrics.json").read_text())["test/top1"] for s in (1, 2)]
    assert list(figures["members"].values()) == pytest.approx(tested)
    assert figures["mean"] == pytest.approx(sum(tested) / 2)
    assert figures["ensemble"] == (found.probabilities.argmax(axis=1) == found.labels).mean()
    assert f"{100 * figures['ensemble']:.2f}" in done.stdout

    # interrupted after the first member: that one is not trained again, the other and the mean are made anew
    kept = (runs / "x-seed1/checkpoints/last.ckpt").stat().st_mtime_ns
    shutil.rmtree(runs / "x-seed2")
    shutil.rmtree(runs / "x-ensemble")
    assert call(tmp_path, shards, *arguments).returncode == 0
    assert (runs / "x-seed1/checkpoints/last.ckpt").stat().st_mtime_ns == kept
    assert json.loads((runs / "x-ensemble/report/ensemble.json").read_text()) == figures

    other = Predictions.load(runs / "x-seed2")
    other.split = "0"
    other.save(runs / "x-seed2/report/probabilities.h5")
    refused = call(tmp_path, shards, *arguments)
    assert refused.returncode
    assert "x-seed2 was tested on other pictures than" in refused.stderr


def test_refused(shards: Path, tmp_path: Path) -> None:
    assert "there is no experiments/none.yaml" in call(tmp_path, shards, "none", "--seeds", "1").stderr
    assert "each seed once" in call(tmp_path, shards, "quickstart_digits", "--seeds", "1", "1").stderr
