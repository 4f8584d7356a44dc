"""Ensembles of seeds: trained once, averaged from what their tests have stored, and resumed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import main
from callbacks.prediction_store import Predictions
from tools import train_ensemble

PROJECT = Path(main.__file__).parent
QUICK = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "6", "--trainer.accelerator", "cpu"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


@pytest.fixture
def call(
    commands: list[Sequence[str]],
    tmp_path: Path,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable:
    """The tool in this process; what it prints, and the commands that it gave."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[str, list[Sequence[str]]]:
        monkeypatch.setattr(sys, "argv", ["train_ensemble.py", *args, "--data.root", str(shards), *QUICK, *QUIET])
        capsys.readouterr()
        commands.clear()
        train_ensemble.main()
        return capsys.readouterr().out, list(commands)

    return call


def test_members_are_trained_once_and_averaged(call: Callable, tmp_path: Path) -> None:
    arguments = ["quickstart_digits", "--name", "x", "--seeds", "1", "2"]
    runs = tmp_path / "runs/quickstart_digits"
    printed = call(*arguments)[0]
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
    (command,) = call(*arguments)[1]
    assert "x-seed2" in command
    assert (runs / "x-seed1/checkpoints/last.ckpt").stat().st_mtime_ns == kept
    assert json.loads((runs / "x-ensemble/report/ensemble.json").read_text()) == figures

    other = Predictions.load(runs / "x-seed2")
    other.split = "0"
    other.save(runs / "x-seed2/report/probabilities.h5")
    with pytest.raises(SystemExit, match="x-seed2 was tested on other pictures than"):
        call(*arguments)


def test_refused(call: Callable, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="each seed once"):
        call("quickstart_digits", "--seeds", "1", "1")
    script = [sys.executable, str(PROJECT / "tools/train_ensemble.py"), "none", "--seeds", "1"]
    refused = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode
    assert "there is no experiments/none.yaml" in refused.stderr
