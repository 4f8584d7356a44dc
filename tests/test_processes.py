"""Several processes on one machine (gloo): training works, and evaluation does not depend on their number."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import main
from callbacks.prediction_store import Predictions
from lightning_modules import MiniVGGNet

PROJECT = Path(main.__file__).parent
DIGITS = PROJECT / "experiments/quickstart_digits.yaml"
FINE_TUNED = """
model:
  class_path: lightning_modules.FineTuner
  init_args:
    backbone: {class_path: lightning_modules.MiniVGGNet, init_args: {num_classes: 10, image_size: 32}}
    weights: backbone.ckpt
    hidden: 16
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.01}}
data: {class_path: datamodules.Digits}
trainer:
  max_epochs: 1
  limit_train_batches: 4
  callbacks:
    - {class_path: callbacks.Unfreeze, init_args: {frozen: [net.body], unfrozen: {2: [net.body]}}}
"""
SAMPLES = 451  # neither 2 nor 3 divides it, nor does the batch size


def command(folder: Path, processes: int, *args: str, ddp: str = "ddp") -> dict[str, float]:
    """Run a command in so many processes; the metrics of its test."""
    flags = ["--trainer.accelerator", "cpu", "--trainer.devices", str(processes)]
    flags += ["--trainer.strategy", ddp if processes > 1 else "auto", "--trainer.enable_progress_bar", "false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-m", "main", *args, *flags], cwd=folder, env=environment, check=True, timeout=300)
    return json.loads(next(folder.glob("runs/*/a/report/metrics.json")).read_text())


@pytest.mark.parametrize("others", [(1,), pytest.param((1, 3, 4), marks=pytest.mark.slow)])
def test_the_same_metrics_from_one_to_four_processes(tmp_path: Path, others: tuple[int, ...]) -> None:
    config = ["--config", str(DIGITS), "--data.test_fraction", "0.2505"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "6"]
    trained_by_two = command(tmp_path, 2, "fit", *config, "--name", "a", "--then", "test", *short)
    run = next(tmp_path.glob("runs/*/a"))
    (record,) = json.loads((run / "history.json").read_text())
    assert record["step"] == 6
    assert 0 < record["val/top1"] < 1

    found = {2: trained_by_two}
    stored = {2: Predictions.load(run)}
    for processes in others:
        found[processes] = command(tmp_path, processes, "test", "--run", str(run))
        stored[processes] = Predictions.load(run)
        assert stored[processes].rows.tolist() == list(range(SAMPLES))
        assert stored[processes].right().mean() == pytest.approx(found[processes]["test/top1"], abs=1e-6)
        assert (stored[processes].probabilities == stored[2].probabilities).all()
        assert (stored[processes].labels == stored[2].labels).all()
        assert stored[processes].epoch == 1
        confusion = (run / "report/confusion_matrix.csv").read_text()
        assert sum(int(count) for row in confusion.splitlines()[1:] for count in row.split(",")[1:]) == SAMPLES
    assert found[1]["samples"] == SAMPLES
    assert all(metrics == found[2] for metrics in found.values())

    tables = []
    for processes, workers in ((1, "0"), (2, "1")):  # of which Lightning would draw rows of its own
        command(tmp_path, processes, "predict", "--run", str(run), "--data.num_workers", workers)
        tables.append((run / "report/predictions.csv").read_text())
    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 1 + SAMPLES


def test_two_processes_freeze_and_unfreeze(tmp_path: Path) -> None:
    config = "model: {class_path: lightning_modules.MiniVGGNet, init_args: {}}"
    preprocessing = {"classes": list("0123456789"), "input_size": 32, "normalization": "unit"}
    weights = MiniVGGNet(10, 32).state_dict()
    checkpoint = {"state_dict": weights, "config": config, "preprocessing": preprocessing}
    torch.save(checkpoint, tmp_path / "backbone.ckpt")
    (tmp_path / "tuned.yaml").write_text(FINE_TUNED)
    ddp = "ddp_find_unused_parameters_true"
    command(tmp_path, 2, "fit", "--config", "tuned.yaml", "--name", "a", "--then", "test", ddp=ddp)
    before = torch.load(tmp_path / "backbone.ckpt")["state_dict"]
    names = [name for name in before if name.startswith(("net.0.", "net.1."))]  # the blocks of convolutions
    frozen = torch.load(tmp_path / "runs/tuned/a/checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(frozen[f"net.body.{name.removeprefix('net.')}"], before[name]) for name in names)
    command(tmp_path, 2, "fit", "--run", "runs/tuned/a", "--trainer.max_epochs", "2", ddp=ddp)
    tuned = torch.load(tmp_path / "runs/tuned/a/checkpoints/last.ckpt")["state_dict"]
    changed = [name for name in names if not torch.equal(tuned[f"net.body.{name.removeprefix('net.')}"], before[name])]
    assert changed == names


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "all"])
def test_two_processes_pause_after_the_same_step_and_one_goes_on(tmp_path: Path, whom: str) -> None:
    """SIGTERM to the first process alone, as of a scheduler; ctrl + c to all, as of a terminal."""
    flags = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--name", "a"]
    flags += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "50"]
    process = subprocess.Popen(
        [
            sys.executable,
            str(PROJECT / "main.py"),
            "fit",
            "--config",
            str(DIGITS),
            *flags,
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    run = tmp_path / "runs/quickstart_digits/a"
    deadline = time.monotonic() + 120
    while not (run / "history.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    if whom == "all":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert printed.count("nothing is lost") == 1
    epochs = len(json.loads((run / "history.json").read_text()))
    assert 1 <= epochs < 50
    command(tmp_path, 1, "fit", "--continue", str(run), "--trainer.max_epochs", str(epochs + 1), "--then", "test")
    assert len(json.loads((run / "history.json").read_text())) == epochs + 1
