"""Every shipped experiment parses, builds, and trains and validates on one batch of its own data set's shape."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

import main
import results
from fit_and_test import is_trained

PROJECT = Path(main.__file__).parent
FILES = sorted((PROJECT / "experiments").rglob("*.yaml"))
EXPERIMENTS = [path for path in FILES if is_trained(path)]
ENSEMBLES = [path for path in EXPERIMENTS if "EnsembleClassifier" in path.read_text()]  # tested, not trained


@pytest.mark.parametrize("experiment", [e for e in EXPERIMENTS if e not in ENSEMBLES], ids=lambda path: path.stem)
def test_one_batch(experiment: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datamodules.pasted_objects.SCENES", {"train": 20, "val": 10, "test": 10})  # made in the test
    one = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    flags = ["--data.source", str(raw), "--data.batch_size", "8", "--data.num_workers", "0", "--name", "a"]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    if "weights: DEFAULT" in experiment.read_text():
        flags += ["--model.backbone.weights", ""]  # tests download nothing
    if "weights: runs/" in experiment.read_text():
        flags += ["--model.weights", ""]  # of a run that is not there
    main.run_command(["fit", "--config", str(experiment), *one, *flags, *quiet])
    (record,) = json.loads(Path("runs", experiment.stem, "a", "history.json").read_text())
    assert record["step"] == (2 if "DCGAN" in experiment.read_text() else 1)  # of each optimizer
    assert record["train/loss"] > 0


@pytest.mark.parametrize("experiment", ENSEMBLES, ids=lambda path: path.stem)
def test_ensemble_of_members_after_one_batch(
    experiment: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    flags = ["--data.source", str(raw), *quiet]
    members = [Path(run) for run in yaml.safe_load(experiment.read_text())["model"]["init_args"]["checkpoints"]]
    trained = PROJECT / "experiments" / f"{members[0].parent.name}.yaml"
    assert trained in EXPERIMENTS
    one = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--data.batch_size", "8"]
    main.run_command(["fit", "--config", str(trained), "--name", members[0].name, *one, *flags])
    for member in members[1:]:
        assert member.parent == members[0].parent
        shutil.copytree(members[0], member)
    main.run_command(["test", "--config", str(experiment), "--name", "a", *flags])
    metrics = json.loads(Path("runs", experiment.stem, "a", "report/metrics.json").read_text())
    assert metrics["samples"] == 60
    assert metrics["test/loss"] > 0


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_header(file: Path) -> None:
    lines = file.read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    assert lines[: len(header)] == header
    published = [line for line in header if line.startswith("# Published") or "Published: " in line]
    assert published
    assert "none" in published[0] or all(results.FIGURE.search(line) for line in published)


@pytest.mark.parametrize("file", [path for path in FILES if not is_trained(path)], ids=lambda path: path.stem)
def test_a_tool_runs_what_is_not_trained(file: Path) -> None:
    text = file.read_text()
    command = re.search(r"^# Run: python (tools/\w+\.py) .*--config (experiments/\w+\.yaml)", text, re.MULTILINE)
    assert command
    assert (PROJECT / command[1]).is_file()
    assert command[2] == f"experiments/{file.name}"
    assert len(text.splitlines()) <= 45


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_layout(experiment: Path) -> None:
    lines = experiment.read_text().splitlines()
    assert 20 <= len(lines) <= 45
    header = [line for line in lines if line.startswith("#")]
    command = "test" if experiment in ENSEMBLES else "fit"
    assert any(f"{command} --config experiments/{experiment.name}" in line for line in header)
    keys = [line.split(":")[0] for line in lines if line and not line.startswith((" ", "#"))]
    assert keys == ["seed_everything", "model", "data", "trainer"]


def test_there_are_experiments() -> None:
    assert len(EXPERIMENTS) >= 27
