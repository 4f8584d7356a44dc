"""The same on a GPU as on the processor."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from callbacks import TopKAccuracy
from callbacks.epoch_means import joined
from datamodules import BatchAugment, Digits, base
from datamodules.geometry import warp_on_device
from datamodules.manifest import Manifest
from datamodules.normalization import Normalization
from detection.layers import sliding
from lightning_modules import MiniVGGNet

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


@pytest.mark.parametrize("border", ["replicate", "zeros"])
@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_augmentation(border: str, interpolation: str) -> None:
    keys = np.arange(64)
    colours = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}
    augment = BatchAugment(padding=4, flip=0.5, erasing=0.5, mixup=0.2, cutmix=1.0, **colours)
    matrices, labels = augment.matrices(1, keys, 32), torch.from_numpy(keys % 10)
    images = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8)
    crops = [warp_on_device(each, matrices, 32, border, interpolation) for each in (images, images.cuda())]
    assert torch.equal(crops[0], crops[1].cpu())  # whole pixels
    shown, expected = (augment.colours(each, 1, keys) for each in (crops[1], crops[0]))
    torch.testing.assert_close(shown.cpu(), expected, rtol=0, atol=1e-2)
    planes = expected.permute(0, 3, 1, 2)
    mixed, named = augment.erase_and_mix(planes.cuda(), labels.cuda(), 1, keys, 10)
    for found, known in zip((mixed, named), augment.erase_and_mix(planes, labels, 1, keys, 10), strict=True):
        torch.testing.assert_close(found.cpu(), known, rtol=0, atol=1e-2)


def test_a_step_does_not_wait_for_the_device() -> None:
    """See tests/test_waits.py, which needs no GPU and sees copies alone."""
    augment, keys = BatchAugment(padding=4, flip=0.5, rotation=10, mixup=0.2, brightness=0.2), np.arange(8)
    images = torch.zeros(8, 32, 32, 3, dtype=torch.uint8, device="cuda")
    labels = torch.zeros(8, dtype=torch.int64, device="cuda")
    outputs = {"loss": labels.float().mean(), "logits": torch.zeros(8, 10, device="cuda"), "labels": labels}
    metric = TopKAccuracy()

    def step() -> None:
        seen = augment.colours(warp_on_device(images, augment.matrices(1, keys, 32), 32, "zeros"), 1, keys)
        augment.erase_and_mix(seen.permute(0, 3, 1, 2), labels, 1, keys, 10)
        metric.sums(joined([outputs] * 16))

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_network_that_slides() -> None:
    network = MiniVGGNet(10, 32).eval()
    pictures = torch.rand(2, 3, 48, 40)
    expected = sliding(network, 32)(pictures)
    torch.testing.assert_close(sliding(network.cuda(), 32)(pictures.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)


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
