"""The data sets: official files in, the right pictures with the right labels out."""

import hashlib
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from datamodules import CIFAR10, Digits, Flowers17, ImageDataModule
from datamodules import base as base_module
from datamodules.cifar10 import read_batch
from datamodules.manifest import Manifest


def packed(data: ImageDataModule) -> ImageDataModule:
    data.prepare_data()
    data.setup("test")
    return data


def everything(data: ImageDataModule, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = data.splits[split].__getitems__(list(range(len(data.splits[split]))))
    return images.numpy(), labels.numpy()


def test_digits_are_the_scans_enlarged(tmp_path: Path) -> None:
    data = packed(Digits(root=str(tmp_path)))
    images = np.concatenate([everything(data, split)[0] for split in ("train", "val", "test")])
    labels = np.concatenate([everything(data, split)[1] for split in ("train", "val", "test")])
    assert images.shape == (1797, 32, 32, 3)
    assert (images[..., 0] == images[..., 2]).all()
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(load_digits().target))
    assert Manifest.load(data.folder).source_sha256.startswith("48aeddd342b9")  # the same pixels on every processor
    # scaled back down, each is nearest to a scan of its own class
    small = images[:100, ..., 0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)) * 16 / 255
    distances = np.abs(small[:, None] - load_digits().images[None]).mean(axis=(2, 3))
    assert load_digits().target[distances.argmin(axis=1)].tolist() == labels[:100].tolist()
    assert distances.min(axis=1).max() < 1.5  # of 16 grey levels, by interpolation


def test_whether_files_are_the_published_ones(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def official(**settings: object) -> bool | None:
        data = packed(CIFAR10(root=str(tmp_path), source=str(raw), **settings))
        return Manifest.load(data.folder).official

    assert set(CIFAR10.official_files) == {*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"}
    assert official() is False
    assert official() is False  # packed already
    assert caplog.text.count("the pictures of cifar10 come from other files than the published ones") == 2
    caplog.clear()
    folder = raw / "cifar-10-batches-py"
    sums = {file: f"md5:{hashlib.md5((folder / file).read_bytes()).hexdigest()}" for file in CIFAR10.official_files}
    monkeypatch.setattr(CIFAR10, "official_files", sums)
    assert official(split_seed=1) is True
    monkeypatch.setattr(CIFAR10, "official_files", sums | {"test_batch": sums["data_batch_1"]})
    assert official(split_seed=2) is False
    monkeypatch.setattr(CIFAR10, "official_files", {})
    assert official(split_seed=3) is None
    assert caplog.text.count("other files") == 1


def test_cifar10_rows_are_planes_of_red_green_blue(raw: Path, tmp_path: Path) -> None:
    data = packed(CIFAR10(root=str(tmp_path), source=str(raw), val_fraction=0.2))
    images, labels = everything(data, "test")
    batch = pickle.loads((raw / "cifar-10-batches-py/test_batch").read_bytes())
    assert labels.tolist() == batch[b"labels"]
    for channel in range(3):
        plane = batch[b"data"][7][channel * 1024 : (channel + 1) * 1024].reshape(32, 32)
        np.testing.assert_array_equal(images[7, :, :, channel], plane)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 240, "val": 60, "test": 60}


def test_flowers17_classes_follow_from_the_numbers(raw: Path, tmp_path: Path) -> None:
    data = packed(Flowers17(root=str(tmp_path), source=str(raw / "17flowers"), image_size=16))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 918, "val": 102, "test": 340}
    for split, rows in (("train", 54), ("val", 6), ("test", 20)):  # stratified: as many of each class
        images, labels = everything(data, split)
        assert np.bincount(labels).tolist() == [rows] * 17
        # the made pictures of class c have a red level of about 15 c
        assert np.abs(images[..., 0].mean(axis=(1, 2)) - 15 * labels).max() < 12


def test_splits_are_seeded_and_disjoint(tmp_path: Path) -> None:
    splits = {}
    for seed in (1, 2):
        data = packed(Digits(root=str(tmp_path), split_seed=seed))
        splits[seed] = {split: [row.tobytes() for row in everything(data, split)[0]] for split in data.splits}
    again = packed(Digits(root=str(tmp_path / "again"), split_seed=1))
    assert splits[1]["test"] == [row.tobytes() for row in everything(again, "test")[0]]
    assert splits[1]["test"] != splits[2]["test"]
    assert splits[1]["train"] != sorted(splits[1]["train"])
    assert not set(splits[1]["train"]) & set(splits[1]["test"])


def test_validate_on_test_trains_on_the_rest(tmp_path: Path) -> None:
    data = packed(Digits(root=str(tmp_path), validate_on_test=True))
    np.testing.assert_array_equal(everything(data, "val")[0], everything(data, "test")[0])
    assert len(data.splits["train"]) == 1797 - 450


def test_another_recipe_is_another_folder(tmp_path: Path) -> None:
    folders = {
        Digits(root=str(tmp_path), **changed).folder
        for changed in ({}, {"image_size": 16}, {"split_seed": 1}, {"val_fraction": 0.2}, {"validate_on_test": True})
    }
    assert len(folders) == 5
    assert Digits(root=str(tmp_path), batch_size=7, normalization="unit").folder in folders  # no part of the recipe


def test_raw_files_are_not_needed_once_packed(raw: Path, tmp_path: Path) -> None:
    packed(CIFAR10(root=str(tmp_path), source=str(raw)))
    packed(CIFAR10(root=str(tmp_path)))
    packed(CIFAR10(root=str(tmp_path), source=str(tmp_path / "gone")))


def test_other_raw_files_are_noticed(raw: Path, tmp_path: Path) -> None:
    packed(CIFAR10(root=str(tmp_path), source=str(raw)))
    other = tmp_path / "other" / "cifar-10-batches-py"
    other.mkdir(parents=True)
    (other / "data_batch_1").write_bytes(b"something else")
    with pytest.raises(ValueError, match="packed from other files"):
        CIFAR10(root=str(tmp_path), source=str(other)).prepare_data()


def test_missing_raw_files_are_downloaded_once(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, checksum: str, folder: Path) -> Path:
        asked.append((url, checksum))
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / "cifar-10-python.tar.gz"
        subprocess.run(["tar", "-czf", archive, "-C", raw, "cifar-10-batches-py"], check=True)
        return archive

    monkeypatch.setattr(base_module, "download", download)
    packed(CIFAR10(root=str(tmp_path)))
    packed(CIFAR10(root=str(tmp_path), split_seed=3))  # another set from the same raw files
    assert asked == [(CIFAR10.url, CIFAR10.checksum)]
    assert asked[0][0].startswith("https://")
    assert not list(tmp_path.rglob("*.tar.gz"))


class Evil:
    """A pickle that would run a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("evil", "system, which is not an array"),
        ("nested", "system, which is not an array"),
        ("text", "invalid load key"),
        ("shape", r"data is uint8 \(2, 3072\), not uint8 \(1, 3072\)"),
        ("dtype", r"data is int64 \(1, 3072\), not uint8 \(1, 3072\)"),
        ("key", "b'data'"),
    ],
)
def test_the_unpickler_admits_arrays_only(tmp_path: Path, content: str, told: str) -> None:
    evil = Evil(tmp_path / "owned")
    batch = {
        "evil": evil,
        "nested": {b"data": np.array([evil], dtype=object), b"labels": [0]},
        "shape": {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        "dtype": {b"data": np.zeros((1, 3072), np.int64), b"labels": [0]},
        "key": {b"labels": [0]},
    }
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"not a pickle" if content == "text" else pickle.dumps(batch[content], protocol=4))
    with pytest.raises(ValueError, match=rf"data_batch_1 is not a CIFAR-10 batch \(.*({told})"):
        read_batch(path)
    assert not (tmp_path / "owned").exists()


def test_the_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    """The official files: protocol 2, byte strings, and numpy's old module name; written out by hand here."""
    pixels = (np.arange(2 * 3072) % 251).astype(np.uint8).reshape(2, 3072)
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x02M\x00\x0ct"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    values = b"\x89T" + pixels.nbytes.to_bytes(4, "little") + pixels.tobytes() + b"tb"
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"\x80\x02}(U\x04data" + array + dtype + values + b"U\x06labels](K\x03K\teu.")
    samples = read_batch(path)
    assert samples.labels.tolist() == [3, 9]
    np.testing.assert_array_equal(samples.images.transpose(0, 3, 1, 2).reshape(2, 3072), pixels)
