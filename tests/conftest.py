"""Small data sets with the layout of the official ones, made in a temporary folder."""

import pickle
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import datamodules

torch.set_num_threads(1)  # the networks are tiny: more threads only wait for each other
torch.backends.cudnn.allow_tf32 = False  # a GPU's figures are compared with a processor's


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data sets in the folders of the official ones.

    17flowers/jpg has all 1 360 files, cifar-10-batches-py 60 pictures a batch, dogs-vs-cats 60 of each,
    tiny-imagenet-200 six classes with 60 training pictures and 2 of validation, MNIST 120 digits and 40 of the test.
    """
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    flowers, cifar = folder / "17flowers" / "jpg", folder / "cifar-10-batches-py"
    flowers.mkdir(parents=True)
    for number in range(1, 1361):
        hue = (number - 1) // 80 * 15
        size = (20, 24) if number % 2 else (24, 20)
        Image.new("RGB", size, (hue, 255 - hue, number % 256)).save(flowers / f"image_{number:04d}.jpg")
    cifar.mkdir()
    for file in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        batch = {b"data": rng.integers(0, 256, (60, 3072), np.uint8), b"labels": [i % 10 for i in range(60)]}
        (cifar / file).write_bytes(pickle.dumps(batch, protocol=4))
    dogs = folder / "dogs-vs-cats" / "train"
    dogs.mkdir(parents=True)
    for number in range(120):
        name, colour = ("cat", (255, number, 0)) if number % 2 else ("dog", (0, number, 255))
        Image.new("RGB", (20, 14), colour).save(dogs / f"{name}.{number // 2}.jpg")
    tiny, wnids = folder / "tiny-imagenet-200", [f"n{number:08d}" for number in range(6)]
    (tiny / "val/images").mkdir(parents=True)
    (tiny / "wnids.txt").write_text("\n".join(wnids))
    (tiny / "words.txt").write_text("".join(f"{wnid}\tclass {wnid}\n" for wnid in wnids))
    for label, wnid in enumerate(wnids):
        images = tiny / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number in range(60):
            Image.new("RGB", (64, 64), (40 * label, 4 * number, 0)).save(images / f"{wnid}_{number}.JPEG")
    annotations = [f"val_{number}.JPEG\t{wnids[number % 6]}\t0\t0\t62\t62\n" for number in range(12)]
    (tiny / "val/val_annotations.txt").write_text("".join(annotations))
    for number in range(12):
        Image.new("RGB", (64, 64), (40 * (number % 6), 4 * number, 255)).save(tiny / f"val/images/val_{number}.JPEG")
    mnist = folder / "MNIST" / "raw"
    mnist.mkdir(parents=True)
    for prefix, rows in (("train", 120), ("t10k", 40)):
        images, labels = rng.integers(0, 256, (rows, 28, 28), np.uint8), np.arange(rows, dtype=np.uint8) % 10
        header = (0x0803).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (mnist / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = (0x0801).to_bytes(4, "big") + rows.to_bytes(4, "big")
        (mnist / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root where the digits are packed already."""
    root = tmp_path_factory.mktemp("data")
    datamodules.Digits(root=str(root)).prepare_data()
    return root


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test has the seed that another one left."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Lightning ignores ctrl + c for good once it has met one."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
