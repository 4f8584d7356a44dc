"""Several views of each test picture: what `--data.views` gives is the mean of what the views give one by one."""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import main
from callbacks.prediction_store import Predictions
from datamodules import Digits
from datamodules.geometry import resize_matrix, warp_on_device
from datamodules.manifest import Manifest
from datamodules.normalization import Normalization
from lightning_modules.saved import saved_network

CROPPED = ["--data.batch_augment", "datamodules.BatchAugment", "--data.batch_augment.crop", "24"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
RUN = Path("runs/quickstart_digits/a")


@pytest.fixture(autouse=True)
def a_short_run(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One on crops of 24 pixels of the packed digits, which have 32."""
    monkeypatch.chdir(tmp_path)
    main.quieten()
    (tmp_path / "data").symlink_to(shards)
    config = str(Path(main.__file__).parent / "experiments/quickstart_digits.yaml")
    # ten crops are asked for already: training and validation still look at one
    asked = ["--data.views", "ten_crop", "--trainer.max_epochs", "1", "--data.normalization", "standardize"]
    main.run_command(["fit", "--config", config, "--name", "a", *CROPPED, *asked, *QUIET])


def stored_pictures() -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Test pictures uint8 ``(N, 32, 32, 3)``, and what normalises them into ``(N, 3, H, W)``."""
    data = Digits(root="data")
    data.setup("test")
    pictures = data.splits["test"]
    normalization = Normalization("standardize", data.folder, Manifest.load(data.folder))
    return pictures.__getitems__(range(len(pictures)))[0], lambda images: normalization(images, torch.float32)


def mean_probabilities(views: list[torch.Tensor]) -> np.ndarray:
    network, _ = saved_network(RUN)
    with torch.no_grad():
        return torch.stack([network(view).softmax(dim=1) for view in views]).mean(dim=0).numpy()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_ten_crops_are_averaged(workers: str) -> None:
    main.run_command(["test", "--run", str(RUN), "--data.num_workers", workers, *QUIET])
    pictures, normalized = stored_pictures()
    images = normalized(pictures)
    corners = [images[:, :, y : y + 24, x : x + 24] for y, x in ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4))]
    expected = mean_probabilities([*corners, *(corner.flip(3) for corner in corners)])
    np.testing.assert_allclose(Predictions.load(RUN).probabilities, expected, atol=1e-5)


def test_a_picture_and_its_mirror_image_are_averaged_in_test_and_predict() -> None:
    flags = ["--run", str(RUN), "--name", "both", "--data.views", "flip", *QUIET]
    main.run_command(["test", *flags])
    pictures, normalized = stored_pictures()
    images = normalized(warp_on_device(pictures, resize_matrix(32, 24)[None], 24, "replicate"))
    expected = mean_probabilities([images, images.flip(3)])
    # OpenCV and torch round an interpolated pixel differently now and then
    folder = RUN.with_name("both")
    np.testing.assert_allclose(Predictions.load(folder).probabilities, expected, atol=0.02)
    assert np.abs(expected - mean_probabilities([images])).max() > 0.1  # so one view would not have passed

    main.run_command(["predict", *("predicted" if flag == "both" else flag for flag in flags)])
    with (RUN.with_name("predicted") / "report/predictions.csv").open() as file:
        told = [float(row["probability"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(told, expected.max(axis=1), atol=0.02)


def test_a_test_under_another_name_leaves_the_run_as_it_is() -> None:
    main.run_command(["test", "--run", str(RUN), "--name", "one-view", "--data.views", "one", *QUIET])
    assert not (RUN / "report").exists()
    folder = RUN.with_name("one-view")
    views = [yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["views"] for run in (RUN, folder)]
    assert views == ["ten_crop", "one"]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="ten crops of 32 pixels need larger stored pictures than 32"):
        main.run_command(["test", "--run", str(RUN), "--data.batch_augment.crop", "32", *QUIET])
    with pytest.raises(argparse.ArgumentError, match="leave out --name"):
        main.run_command(["fit", "--run", str(RUN), "--name", "b", *QUIET])
