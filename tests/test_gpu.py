"""The same on a GPU as on the processor."""

import json
from pathlib import Path

import pytest
import torch

import main
from datamodules import Digits
from datamodules.normalization import Normalization
from datamodules.shards import Manifest

PROJECT = Path(main.__file__).parent
pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_digits_are_learned(precision: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--data.root", str(shards)]
    flags = ["--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.precision", precision]
    main.run_command(["fit", *config, *flags, "--name", "a", "--then", "test"])
    metrics = json.loads(Path("runs/quickstart_digits/a/report/metrics.json").read_text())
    assert metrics["test/top1"] > 0.97


@pytest.mark.parametrize("kind", ["unit", "channel_mean", "mean_image", "standardize", "imagenet", "symmetric"])
def test_normalisation(kind: str, shards: Path) -> None:
    folder = Digits(root=str(shards)).folder
    normalize = Normalization(kind, folder, Manifest.load(folder))
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    expected = normalize(images, torch.float32)
    torch.testing.assert_close(normalize(images.cuda(), torch.float32).cpu(), expected)


def test_resident_pictures_train_the_same(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--data.root", str(shards)]
    flags = ["--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.max_epochs", "1"]
    losses = []
    for resident in ("false", "true"):
        main.run_command(["fit", *config, *flags, "--data.resident", resident, "--name", resident])
        losses.append(json.loads(Path(f"runs/quickstart_digits/{resident}/history.json").read_text())[0]["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_compiled_averaged_channels_last(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--data.root", str(shards)]
    flags = ["--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.precision", "bf16-mixed"]
    flags += [f"--trainer.callbacks+=callbacks.{name}" for name in ("EMA", "ChannelsLast", "Compile")]
    main.run_command(["fit", *config, *flags, "--name", "a", "--then", "test"])
    metrics = json.loads(Path("runs/quickstart_digits/a/report/metrics.json").read_text())
    assert metrics["test/top1"] > 0.95
