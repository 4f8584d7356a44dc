"""Every shipped experiment parses, builds, and trains and validates on one batch of its own data set's shape."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

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
KERAS = {"batch_norm_momentum": 0.01, "batch_norm_eps": 0.001}
NEAREST = {"interpolation": "nearest"}


def settings_of(name: str) -> dict[str, Any]:
    return yaml.safe_load((PROJECT / "experiments" / f"{name}.yaml").read_text())


def affine(rotation: float = 0, shift: float = 0, shear: float = 0, zoom: float = 0) -> dict[str, float]:
    """Those that are not 0."""
    ranges = {"rotation": rotation, "shift": shift, "shear": shear, "zoom": zoom}
    return {name: number for name, number in ranges.items() if number}


def batches(**settings: Any) -> dict[str, Any]:
    """Flipped, and warped as given, whole batches at a time."""
    return {"batch_augment": {"class_path": "datamodules.BatchAugment", "init_args": {"flip": 0.5, **settings}}}


def pictures(**settings: Any) -> dict[str, Any]:
    """Warped as given, with nearest pixels, and flipped, one by one."""
    warp = {"class_path": "datamodules.KerasAffine", "init_args": {**settings, **NEAREST}}
    return {"transforms": [warp, {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 0.5}}]}


def resnet(stages: list[int], filters: list[int], stem: str) -> dict[str, Any]:
    return {"stages": stages, "filters": filters, "stem": stem, "block_weight_decay": 2e-4}


SHIFTED = batches(**affine(0, 0.1), **NEAREST)
DEEP = batches(**affine(18, 0.2, 0.15, 0.15), **NEAREST)
FLOWERS = {"image_size": 64}
CIFAR_RESNET = resnet([9, 9, 9], [64, 64, 128, 256], "cifar")
THIN_RESNET = resnet([9, 9, 9], [16, 16, 32, 64], "cifar")
TINY_RESNET = resnet([3, 4, 6], [64, 128, 256, 512], "tiny_imagenet")
WITHOUT_4 = {"inception_4": False, **KERAS}


@pytest.mark.parametrize(
    ("name", "network", "optimizer", "rate", "more", "decay", "batch", "epochs", "schedule", "data", "normalization"),
    [
        (
            *("minivggnet_cifar10", KERAS, SGD, 0.01, NESTEROV, 0, 64, 40, {"rate": 0.01 / 40}),
            *(pictures(**affine(10, 0.1)), "unit"),
        ),
        *(
            (f"minigooglenet_cifar10{which}", KERAS, SGD, rate, MOMENTUM, 0, 64, 70, POLY, SHIFTED, "mean_image")
            for which, rate in (("", 5e-3), ("_lr1e-2", 1e-2), ("_lr1e-3", 1e-3))
        ),
        *(
            (f"resnet_cifar10{which}", network, SGD, 0.1, MOMENTUM, 2 * r, 128, epochs, how, SHIFTED, "mean_image")
            for which, network, r, epochs, how in (
                ("_exp1", THIN_RESNET, 1e-4, 85, {51: 0.01, 76: 0.001}),
                ("_exp2", resnet([9, 9, 9], [16, 64, 128, 256], "cifar"), 1e-4, 50, {41: 0.01, 46: 0.001}),
                ("_exp3", CIFAR_RESNET, 5e-4, 100, {81: 0.01, 91: 0.001}),
                ("", CIFAR_RESNET, 5e-4, 100, POLY),
            )
        ),
        ("vgg_cifar10", {}, SGD, 0.1, MOMENTUM, 5e-4, 128, 300, {101: 0.01, 201: 0.001}, batches(), "mean_image"),
        ("resnet32_cifar10", {"depth": 32}, ADAM, 1e-3, {}, 0, 128, 1, None, {}, "unit"),
        (
            *("resnet56_cifar10", {"depth": 56}, SGD, 0.1, MOMENTUM, 1e-4, 128, 164, {83: 0.01, 124: 0.001}),
            *(batches(padding=4, border="zeros"), "mean_image"),
        ),
        ("minivggnet_flowers17", KERAS, SGD, 0.05, {}, 0, 32, 100, None, FLOWERS, "unit"),
        (
            *("minivggnet_flowers17_aug", KERAS, SGD, 0.05, {}, 0, 32, 100, None),
            *(FLOWERS | pictures(**affine(30, 0.1, 0.2, 0.2)), "unit"),
        ),
        (
            *("alexnet_dogs_vs_cats", KERAS, ADAM, 1e-3, {}, 4e-4, 128, 75, None),
            *(batches(crop=227, **affine(20, 0.2, 0.15, 0.15), **NEAREST), "channel_mean"),
        ),
        *(
            (f"deepergooglenet_tinyimagenet{which}", network, *how, 4e-4, 64, epochs, rates, DEEP, "channel_mean")
            for which, network, how, epochs, rates in (
                ("_exp1", WITHOUT_4, (SGD, 1e-2, MOMENTUM), 65, {26: 1e-3, 36: 1e-4}),
                ("_exp2", WITHOUT_4, (ADAM, 1e-3, {}), 40, {21: 1e-4, 31: 1e-5}),
                ("", KERAS, (ADAM, 1e-3, {}), 70, {41: 1e-4, 61: 1e-5}),
            )
        ),
        *(
            (
                f"resnet_tinyimagenet{which}",
                TINY_RESNET,
                SGD,
                0.1,
                MOMENTUM,
                1e-3,
                64,
                epochs,
                how,
                DEEP,
                "channel_mean",
            )
            for which, epochs, how in (("_exp1", 40, {26: 0.01, 36: 0.001}), ("", 75, POLY))
        ),
    ],
)
def test_historical_settings(
    name: str,
    network: dict[str, Any],
    optimizer: str,
    rate: float,
    more: dict[str, float],
    decay: float,
    batch: int,
    epochs: int,
    schedule: dict[str, float] | dict[int, float] | None,
    data: dict[str, Any],
    normalization: str,
) -> None:
    """Those of the publication: no edit of a file may change them unseen."""
    settings = settings_of(name)
    assert settings["model"]["init_args"] == {
        **network,
        "optimizer": {"class_path": optimizer, "init_args": {"lr": rate, **more}},
        **({"weight_decay": decay} if decay else {}),
    }
    assert settings["data"]["init_args"] == {**data, "batch_size": batch, "normalization": normalization}
    assert settings["trainer"]["max_epochs"] == epochs
    assert settings["trainer"].keys() <= {"max_epochs", "callbacks"}
    found = [callback.get("init_args") for callback in settings["trainer"].get("callbacks", [])]
    assert [each.get("rates", each) for each in found] == [schedule] * bool(schedule)


def test_historical_settings_of_fine_tuning() -> None:
    settings = settings_of("finetune_vgg16_flowers17")
    backbone = {"num_classes": 1000, "image_size": 224, "architecture": "vgg16", "weights": "DEFAULT"}
    assert settings["model"]["init_args"] == {
        "backbone": {"class_path": "lightning_modules.TorchvisionModel", "init_args": backbone},
        "hidden": 256,
        "optimizer": {"class_path": "torch.optim.RMSprop", "init_args": {"lr": 1e-3, "alpha": 0.9}},
    }
    augmented = batches(**affine(30, 0.1, 0.2, 0.2), **NEAREST)
    assert settings["data"]["init_args"] == augmented | {
        "image_size": 224,
        "batch_size": 32,
        "normalization": "imagenet",
    }
    (unfreeze,) = settings["trainer"]["callbacks"]
    assert settings["trainer"]["max_epochs"] == 25 + 100
    assert unfreeze["init_args"] == {
        "frozen": ["net.body"],
        "unfrozen": {26: [f"net.body.features.{layer}" for layer in (24, 26, 28)]},
        "optimizer": {"class_path": SGD, "init_args": {"lr": 1e-3}},
    }


@pytest.mark.parametrize(
    ("name", "adam", "data", "epochs", "rate"),
    [
        (
            "dcgan_mnist",
            {"lr": 2e-4, "betas": [0.5, 0.999]},
            {"validate_on_test": True, "batch_size": 128, "normalization": "symmetric"},
            50,
            2e-4 / 50,
        ),
        ("srcnn", {"lr": 1e-3}, {"upscale_factor": 2, "colour": "rgb", "batch_size": 128}, 10, 1e-3 / 10),
    ],
)
def test_historical_settings_beyond_classification(
    name: str, adam: dict[str, Any], data: dict[str, Any], epochs: int, rate: float
) -> None:
    settings = settings_of(name)
    assert settings["model"]["init_args"] == {"optimizer": {"class_path": ADAM, "init_args": adam}}
    assert settings["data"]["init_args"] == data
    assert settings["trainer"]["max_epochs"] == epochs
    decay = [each for each in settings["trainer"]["callbacks"] if each["class_path"] == "callbacks.InverseTimeDecay"]
    assert [each["init_args"]["rate"] for each in decay] == [pytest.approx(rate)]


def test_the_backbones_settings_are_those_it_is_trained_with() -> None:
    for name in ("finetune_minivggnet_flowers17", "finetune_minivggnet_dogs_vs_cats"):
        backbone = settings_of(name)["model"]["init_args"]["backbone"]
        trained = settings_of("minivggnet_cifar10")["model"]
        assert backbone["class_path"] == trained["class_path"]
        assert backbone["init_args"] == {"num_classes": 10, "image_size": 32, **KERAS}
        assert trained["init_args"].items() >= KERAS.items()


def test_there_are_experiments() -> None:
    assert len(EXPERIMENTS) >= 27
