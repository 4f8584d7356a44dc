"""Dogs vs Cats in both layouts, with broken files among them."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import DogsVsCats
from datamodules.manifest import Manifest

EACH = 60


def make(folder: Path, kaggle: bool) -> Path:
    """Cats are red, dogs are blue."""
    for label, name in enumerate(("cat", "dog")):
        place = folder / ("dogs-vs-cats/train" if kaggle else f"PetImages/{name.capitalize()}")
        place.mkdir(parents=True, exist_ok=True)
        for number in range(EACH):
            colour = (0, number, 255) if label else (255, number, 0)
            Image.new("RGB", (20, 14), colour).save(place / (f"{name}.{number}.jpg" if kaggle else f"{number}.jpg"))
        if not kaggle:
            (place / "Thumbs.db").write_bytes(b"no picture")
    return folder


def packed(root: Path, source: Path, **arguments: object) -> DogsVsCats:
    data = DogsVsCats(root=str(root), source=str(source), image_size=16, **arguments)
    data.prepare_data()
    data.setup("test")
    return data


def check(data: DogsVsCats) -> None:
    for dataset in data.splits.values():
        images, labels = dataset.__getitems__(range(len(dataset)))
        assert ((images[:, 8, 8, 2] > 128).long() == labels).all()


@pytest.mark.parametrize("kaggle", [True, False])
def test_a_tenth_validates_and_a_tenth_tests(tmp_path: Path, kaggle: bool) -> None:
    data = packed(tmp_path / "data", make(tmp_path / "raw", kaggle))
    assert {split: len(dataset) for split, dataset in data.splits.items()} == {"train": 96, "val": 12, "test": 12}
    check(data)
    _, labels = data.splits["test"].__getitems__(range(12))
    assert labels.sum() == 6
    files = data.read(data.raw_files.find())["train"].images  # 2 comes before 10
    assert [int(file.stem.rpartition(".")[2]) for file in files] == [*range(EACH), *range(EACH)]


def test_broken_files_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make(tmp_path / "raw", kaggle=False)
    (source / "PetImages/Cat/33.jpg").write_bytes(b"")
    whole = (source / "PetImages/Dog/7.jpg").read_bytes()
    (source / "PetImages/Dog/7.jpg").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING, logger="litvision"):
        data = packed(tmp_path / "data", source, val_fraction=0.3)
    manifest = Manifest.load(data.folder)
    assert sorted(manifest.skipped) == ["33.jpg", "7.jpg"]
    assert "Cat/33.jpg" in caplog.text
    assert sum(len(dataset) for dataset in data.splits.values()) == 2 * EACH - 2
    assert sum(shard.rows for shards in manifest.splits.values() for shard in shards) == 2 * EACH - 2
    assert manifest.row_files.rows == 2 * EACH - 2
    check(data)
    train, _ = data.splits["train"].__getitems__(range(len(data.splits["train"])))
    np.testing.assert_allclose(manifest.channel_mean, train.double().mean(dim=(0, 1, 2)))


def test_broken_files_stop_where_that_is_asked(tmp_path: Path) -> None:
    source = make(tmp_path / "raw", kaggle=True)
    (source / "dogs-vs-cats/train/cat.3.jpg").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"cat.3.jpg cannot be read"):
        packed(tmp_path / "data", source, skip_broken=False)
    assert not any(path.is_dir() for path in (tmp_path / "data").glob("dogs_vs_cats-*[0-9a-f]"))


def test_too_many_broken_files_are_a_broken_copy(tmp_path: Path) -> None:
    source = make(tmp_path / "raw", kaggle=True)
    for number in range(20):
        (source / f"dogs-vs-cats/train/cat.{number}.jpg").write_bytes(b"text")
    with pytest.raises(ValueError, match="7 pictures of dogs_vs_cats cannot be read"):
        packed(tmp_path / "data", source)
