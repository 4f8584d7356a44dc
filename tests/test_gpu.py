"""The same on a GPU as on the processor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import main
from datamodules import Digits, base
from datamodules.manifest import Manifest
from datamodules.normalization import Normalization

PROJECT = Path(main.__file__).parent
pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_digits_are_learned(precision: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--data.root", str(shards)]
    flags = ["--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.precision", precision]
    main.run_command(["fit", *config, *flags, "--name", "a", "--then", "test"])
    metrics = json.loads(Path("runs/quickstart_digits/a/report/metrics.json").read_text())
    assert metrics["test/top1"] > 0.95


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
    losses, copies, copied = [], [], base.copied
    monkeypatch.setattr(base, "copied", lambda *given: copies.append(given) or copied(*given))
    for resident in ("false", "true"):
        assert not copies
        main.run_command(["fit", *config, *flags, "--data.resident", resident, "--name", resident])
        losses.append(json.loads(Path(f"runs/quickstart_digits/{resident}/history.json").read_text())[0]["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert len(copies) == 2  # training and validation


def test_compiled_averaged_channels_last(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--data.root", str(shards)]
    flags = ["--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.precision", "bf16-mixed"]
    flags += [f"--trainer.callbacks+=callbacks.{name}" for name in ("EMA", "ChannelsLast", "Compile")]
    main.run_command(["fit", *config, *flags, "--name", "a", "--then", "test"])
    metrics = json.loads(Path("runs/quickstart_digits/a/report/metrics.json").read_text())
    assert metrics["test/top1"] > 0.95


def on_two(folder: Path, shards: Path, name: str, *flags: str) -> Path:
    """The folder of a run that two GPUs have trained for an epoch."""
    fit = [
        sys.executable,
        str(PROJECT / "main.py"),
        "fit",
        "--config",
        str(PROJECT / "experiments/quickstart_digits.yaml"),
    ]
    fit += ["--data.root", str(shards), "--name", name, "--trainer.max_epochs", "1"]
    subprocess.run(
        [*fit, "--trainer.accelerator", "gpu", "--trainer.devices", "2", *flags], cwd=folder, check=True, timeout=300
    )
    return folder / "runs/quickstart_digits" / name


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_synchronised_batch_norm_has_the_statistics_of_the_whole_batch(shards: Path, tmp_path: Path) -> None:
    one_step = ["--trainer.limit_train_batches", "1", "--trainer.strategy", "ddp", "--model.pool_dropout", "0"]
    one_step += ["--model.hidden_dropout", "0"]
    means = []
    for name, flags in (("apart", []), ("synchronised", ["--trainer.sync_batchnorm", "true"])):
        run = on_two(tmp_path, shards, name, *one_step, *flags)
        means.append(torch.load(run / "checkpoints/last.ckpt")["state_dict"]["net.0.2.running_mean"])
    run = on_two(tmp_path, shards, "one", *one_step, "--trainer.devices", "1")
    whole = torch.load(run / "checkpoints/last.ckpt")["state_dict"]["net.0.2.running_mean"]
    torch.testing.assert_close(means[1], whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(means[0], whole, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_sharded_training_leaves_whole_checkpoints(shards: Path, tmp_path: Path) -> None:
    run = on_two(tmp_path, shards, "sharded", "--trainer.strategy", "fsdp")
    test = [sys.executable, str(PROJECT / "main.py"), "test", "--run", str(run)]
    one = ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    subprocess.run([*test, *one], cwd=tmp_path, check=True)
    assert json.loads((run / "report/metrics.json").read_text())["test/top1"] > 0.5
