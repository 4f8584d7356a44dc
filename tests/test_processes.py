"""Several processes on one machine (gloo): training works, and evaluation does not depend on their number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import main
from callbacks.prediction_store import Predictions

PROJECT = Path(main.__file__).parent
SAMPLES = 451  # neither 2 nor 3 divides it, nor does the batch size


def command(folder: Path, processes: int, *args: str) -> dict[str, float]:
    """Run a command in so many processes; the metrics of its test."""
    flags = ["--trainer.accelerator", "cpu", "--trainer.devices", str(processes)]
    flags += ["--trainer.strategy", "ddp" if processes > 1 else "auto", "--trainer.enable_progress_bar", "false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-m", "main", *args, *flags], cwd=folder, env=environment, check=True, timeout=300)
    return json.loads(next(folder.glob("runs/*/a/report/metrics.json")).read_text())


def test_the_same_metrics_from_one_two_and_three_processes(tmp_path: Path) -> None:
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--data.test_fraction", "0.2505"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "6"]
    trained_by_two = command(tmp_path, 2, "fit", *config, "--name", "a", "--then", "test", *short)
    run = next(tmp_path.glob("runs/*/a"))
    (record,) = json.loads((run / "history.json").read_text())
    assert record["step"] == 6
    assert 0 < record["val/top1"] < 1

    found = {1: trained_by_two}
    stored: dict[int, Predictions] = {}
    for processes in (1, 2, 3):
        found[processes] = command(tmp_path, processes, "test", "--run", str(run))
        stored[processes] = Predictions.load(run)
        assert stored[processes].rows.tolist() == list(range(SAMPLES))
        assert stored[processes].right().mean() == pytest.approx(found[processes]["test/top1"], abs=1e-6)
        assert (stored[processes].probabilities == stored[1].probabilities).all()
        assert (stored[processes].labels == stored[1].labels).all()
        assert stored[processes].epoch == 1
        confusion = (run / "report/confusion_matrix.csv").read_text()
        assert sum(int(count) for row in confusion.splitlines()[1:] for count in row.split(",")[1:]) == SAMPLES
    assert found[1]["samples"] == SAMPLES
    assert found[1] == found[2] == found[3] == trained_by_two
