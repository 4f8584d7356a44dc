"""The results page: made from runs, nothing typed."""

import subprocess
import sys
from pathlib import Path

import pytest

import main

PROJECT = Path(main.__file__).parent


def results(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, PROJECT / "tools/results.py", *args], capture_output=True, text=True)


def test_a_tested_run_becomes_a_row(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--data.root", str(shards)]
    main.run_command(["fit", *config, "--name", "one", "--then", "test", *flags])
    run = tmp_path / "runs/quickstart_digits/one"
    assert results("--docs", str(tmp_path / "docs"), str(run)).returncode == 0
    page = (tmp_path / "docs/results.md").read_text()
    top1 = float((run / "report/metrics.json").read_text().split('"test/top1": ')[1].split(",")[0])
    (row,) = [line for line in page.splitlines() if line.startswith("| quickstart_digits")]
    assert f"**{100 * top1:.2f} %**" in row
    assert "shortened: 1 of 8" in row
    assert str(shards) not in page
    assert "| resnet56_cifar10 |" in page
    assert page.count("no record") == len(list((PROJECT / "experiments").rglob("*.yaml"))) - 1
    assert (tmp_path / "docs/records/quickstart_digits-one.png").exists()


def test_a_run_that_was_not_tested_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 1\n")
    refused = results("--docs", str(tmp_path / "docs"), str(tmp_path))
    assert refused.returncode == 1
    assert "sessions.json is missing" in refused.stderr
