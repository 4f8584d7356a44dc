"""Every shipped experiment parses, builds, and trains and validates on one batch of its own data set's shape."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

import comparison
import main
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
    assert "none" in published[0] or all(comparison.FIGURE.search(line) for line in published)


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


SGD, ADAM = "torch.optim.SGD", "torch.optim.Adam"
MOMENTUM = {"momentum": 0.9}
NESTEROV = {"momentum": 0.9, "nesterov": True}
POLY = {"power": 1.0}
DEEP = (18, 0.2, 0.15, 0.15)  # rotation, shift, shear, zoom


@pytest.mark.parametrize(
    ("name", "optimizer", "rate", "more", "decay", "batch", "epochs", "schedule", "augmentation", "normalization"),
    [
        ("minivggnet_cifar10", SGD, 0.01, NESTEROV, 0, 64, 40, {"rate": 0.01 / 40}, (10, 0.1, 0, 0), "unit"),
        ("minigooglenet_cifar10", SGD, 5e-3, MOMENTUM, 0, 64, 70, POLY, (0, 0.1, 0, 0), "mean_image"),
        ("minigooglenet_cifar10_lr1e-2", SGD, 1e-2, MOMENTUM, 0, 64, 70, POLY, (0, 0.1, 0, 0), "mean_image"),
        ("minigooglenet_cifar10_lr1e-3", SGD, 1e-3, MOMENTUM, 0, 64, 70, POLY, (0, 0.1, 0, 0), "mean_image"),
        *(
            (f"resnet_cifar10{which}", SGD, 0.1, MOMENTUM, 2 * r, 128, epochs, schedule, (0, 0.1, 0, 0), "mean_image")
            for which, r, epochs, schedule in (
                ("_exp1", 1e-4, 85, {51: 0.01, 76: 0.001}),
                ("_exp2", 1e-4, 50, {41: 0.01, 46: 0.001}),
                ("_exp3", 5e-4, 100, {81: 0.01, 91: 0.001}),
                ("", 5e-4, 100, POLY),
            )
        ),
        ("vgg_cifar10", SGD, 0.1, MOMENTUM, 5e-4, 128, 300, {101: 0.01, 201: 0.001}, (0, 0, 0, 0), "mean_image"),
        ("resnet32_cifar10", ADAM, 1e-3, {}, 0, 128, 1, None, (0, 0, 0, 0), "unit"),
        ("resnet56_cifar10", SGD, 0.1, MOMENTUM, 1e-4, 128, 164, {83: 0.01, 124: 0.001}, (0, 0, 0, 0), "mean_image"),
        ("minivggnet_flowers17", SGD, 0.05, {}, 0, 32, 100, None, (0, 0, 0, 0), "unit"),
        ("minivggnet_flowers17_aug", SGD, 0.05, {}, 0, 32, 100, None, (30, 0.1, 0.2, 0.2), "unit"),
        ("alexnet_dogs_vs_cats", ADAM, 1e-3, {}, 4e-4, 128, 75, None, (20, 0.2, 0.15, 0.15), "channel_mean"),
        *(
            (f"deepergooglenet_tinyimagenet{which}", *with_what, 64, epochs, schedule, DEEP, "channel_mean")
            for which, with_what, epochs, schedule in (
                ("_exp1", (SGD, 1e-2, MOMENTUM, 4e-4), 65, {26: 1e-3, 36: 1e-4}),
                ("_exp2", (ADAM, 1e-3, {}, 4e-4), 40, {21: 1e-4, 31: 1e-5}),
                ("", (ADAM, 1e-3, {}, 4e-4), 70, {41: 1e-4, 61: 1e-5}),
            )
        ),
        *(
            (f"resnet_tinyimagenet{which}", SGD, 0.1, MOMENTUM, 1e-3, 64, epochs, schedule, DEEP, "channel_mean")
            for which, epochs, schedule in (("_exp1", 40, {26: 0.01, 36: 0.001}), ("", 75, POLY))
        ),
    ],
)
def test_historical_hyperparameters(
    name: str,
    optimizer: str,
    rate: float,
    more: dict[str, float],
    decay: float,
    batch: int,
    epochs: int,
    schedule: dict[str, float] | dict[int, float] | None,
    augmentation: tuple[float, ...],
    normalization: str,
) -> None:
    """Those of the publication: no edit of a file may change them unseen."""
    settings = yaml.safe_load((PROJECT / "experiments" / f"{name}.yaml").read_text())
    model, data = (settings[section]["init_args"] for section in ("model", "data"))
    assert model["optimizer"] == {"class_path": optimizer, "init_args": {"lr": rate, **more}}
    assert model.get("weight_decay", 0) == decay
    assert (data["batch_size"], settings["trainer"]["max_epochs"]) == (batch, epochs)
    assert data["normalization"] == normalization
    first = data.get("batch_augment") or next(iter(data.get("transforms") or ()), {"init_args": {}})
    assert tuple(first["init_args"].get(each, 0) for each in ("rotation", "shift", "shear", "zoom")) == augmentation
    callbacks = settings["trainer"].get("callbacks", [])
    found = [callback.get("init_args") for callback in callbacks]
    assert [each.get("rates", each) for each in found] == [schedule] * bool(schedule)


def test_there_are_experiments() -> None:
    assert len(EXPERIMENTS) >= 27
