"""Tiny ImageNet's official layout: splits, labels and names of the classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import TinyImageNet

WNIDS = ["n03", "n01", "n02"]
WORDS = "n01\tcrane\nn02\tcrane, lifting device\nn03\tgoldfish, Carassius auratus\nn04\tnot among them\n"
TRAIN, VAL = 56, 4


def make(folder: Path) -> Path:
    """Three classes; a picture's red is its class's place in wnids.txt, its green its number."""
    raw = folder / "tiny-imagenet-200"
    (raw / "val/images").mkdir(parents=True)
    (raw / "wnids.txt").write_text("\n".join(WNIDS))
    (raw / "words.txt").write_text(WORDS)
    annotations = []
    for label, wnid in enumerate(WNIDS):
        images = raw / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number in range(TRAIN):
            Image.new("RGB", (64, 64), (80 * label, 4 * number, 0)).save(images / f"{wnid}_{number}.JPEG", quality=100)
        for number in range(VAL):
            name = f"val_{len(annotations)}.JPEG"
            Image.new("RGB", (64, 64), (80 * label, 4 * number, 255)).save(raw / "val/images" / name, quality=100)
            annotations.append(f"{name}\t{wnid}\t0\t0\t62\t62")
    (raw / "val/val_annotations.txt").write_text("\n".join(reversed(annotations)) + "\n")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("raw"))


def test_splits_labels_and_names(source: Path, tmp_path: Path) -> None:
    data = TinyImageNet(root=str(tmp_path), source=str(source))
    assert data.num_classes == 3  # before anything is packed
    assert data.classes == ["goldfish", "crane", "crane, lifting device"]
    data.prepare_data()
    data.setup("test")
    sizes = {split: len(dataset) for split, dataset in data.splits.items()}
    assert sizes == {"train": 3 * (TRAIN - 50), "val": 3 * VAL, "test": 150}
    seen = []
    for split, dataset in data.splits.items():
        images, labels = dataset.__getitems__(range(len(dataset)))
        red, green, blue = images.float().mean(dim=(1, 2)).round().int().unbind(dim=1)
        assert ((red - 80 * labels).abs() <= 2).all()
        assert ((blue > 128) == (split == "val")).all()
        assert np.ptp(np.bincount(labels)) == 0
        if split != "val":
            seen += list(zip(labels.tolist(), (green / 4).round().int().tolist(), strict=True))
    assert len(set(seen)) == 3 * TRAIN  # no picture is in train and in test


def test_the_seed_chooses_what_tests(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order in which a disk names the files."""
    raw, named = source / "tiny-imagenet-200", Path.iterdir
    first, other = ({*TinyImageNet(split_seed=seed).read(raw)["test"].images} for seed in (1, 2))
    monkeypatch.setattr(Path, "iterdir", lambda folder: sorted(named(folder), reverse=True))
    assert first == {*TinyImageNet(split_seed=1).read(raw)["test"].images} != other


def test_the_packed_set_knows_its_classes_without_the_raw_files(source: Path, tmp_path: Path) -> None:
    TinyImageNet(root=str(tmp_path), source=str(source)).prepare_data()
    assert TinyImageNet(root=str(tmp_path)).num_classes == 3


def test_too_few_pictures_to_test_with(source: Path, tmp_path: Path) -> None:
    raw = make(tmp_path / "raw")
    for file in sorted((raw / "tiny-imagenet-200/train/n01/images").iterdir())[:6]:
        file.unlink()
    with pytest.raises(ValueError, match=r"n01 has 50 pictures"):
        TinyImageNet(root=str(tmp_path), source=str(raw)).prepare_data()


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="tiny-imagenet-200/wnids.txt"):
        _ = TinyImageNet(root=str(tmp_path), source=str(tmp_path)).num_classes
