"""Every shipped experiment parses, builds, and trains and validates on one batch of its own data set's shape."""

import json
from pathlib import Path

import pytest

import main
from tools import reproduce

PROJECT = Path(main.__file__).parent
EXPERIMENTS = sorted((PROJECT / "experiments").rglob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_one_batch(experiment: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    flags = ["--data.source", str(raw), "--data.batch_size", "8", "--data.num_workers", "0", "--name", "a"]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    if "weights: DEFAULT" in experiment.read_text():
        flags += ["--model.backbone.weights", ""]  # tests download nothing
    main.run_command(["fit", "--config", str(experiment), *one, *flags, *quiet])
    (record,) = json.loads(Path("runs", experiment.stem, "a", "history.json").read_text())
    assert record["step"] == 1
    assert record["train/loss"] > 0


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_layout(experiment: Path) -> None:
    lines = experiment.read_text().splitlines()
    assert 20 <= len(lines) <= 45
    header = [line for line in lines if line.startswith("#")]
    assert lines[: len(header)] == header
    published = [line for line in header if line.startswith("# Published") or "Published: " in line]
    assert published
    assert "none" in published[0] or all(reproduce.FIGURE.search(line) for line in published)
    assert any(f"fit --config experiments/{experiment.name}" in line for line in header)
    keys = [line.split(":")[0] for line in lines if line and not line.startswith((" ", "#"))]
    assert keys == ["seed_everything", "model", "data", "trainer"]


def test_there_are_experiments() -> None:
    assert len(EXPERIMENTS) >= 27
