"""Folds of cross-validation: each development sample validates exactly once, and the test split stays apart."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold, train_test_split

from datamodules import CIFAR10, Digits, ImageDataModule, TinyImageNet
from datamodules.samples import Samples
from datamodules.splits import Splitting

Pictures = list[tuple[bytes, int]]


def stored(data: ImageDataModule) -> dict[str, Pictures]:
    """Pixels and label of each sample, in stored order."""
    data.prepare_data()
    data.setup("test")
    splits = {}
    for split, rows in data.splits.items():
        images, labels = rows.__getitems__(range(len(rows)))
        splits[split] = [(image.tobytes(), int(label)) for image, label in zip(images.numpy(), labels, strict=True)]
    return splits


def folds_of(kind: type[ImageDataModule], count: int, **arguments: object) -> list[dict[str, Pictures]]:
    return [stored(kind(folds=count, fold=fold, **arguments)) for fold in range(1, count + 1)]


def assert_each_once(folds: list[dict[str, Pictures]], development: Pictures, test: Pictures) -> None:
    """Each sample with its own label; within a fold in the order of the development samples."""
    assert sum((Counter(fold["val"]) for fold in folds), Counter()) == Counter(development)
    for fold in folds:
        assert Counter(fold["train"]) + Counter(fold["val"]) == Counter(development)
        assert fold["test"] == test
        rest = iter(development)
        assert all(sample in rest for sample in fold["val"])  # consumes what it passes over: the order is the same
        counts = Counter(label for _, label in fold["val"])
        for label, whole in Counter(label for _, label in development).items():
            assert abs(counts[label] - whole / len(folds)) < 1  # stratified


def test_a_data_set_without_official_splits(tmp_path: Path) -> None:
    raw = Digits(root=str(tmp_path)).read(tmp_path)["train"]
    scans = [(image.tobytes(), int(label)) for image, label in zip(raw.images, raw.labels, strict=True)]
    kept, held_out = train_test_split(np.arange(1797), test_size=0.25, stratify=raw.labels, random_state=42)
    folds = folds_of(Digits, 5, root=str(tmp_path))
    assert_each_once(folds, [scans[row] for row in kept], [scans[row] for row in sorted(held_out)])
    assert stored(Digits(root=str(tmp_path)))["test"] == folds[0]["test"]


def test_official_splits(raw: Path, tmp_path: Path) -> None:
    folds = folds_of(CIFAR10, 3, root=str(tmp_path), source=str(raw))
    official: dict[str, Pictures] = {"train": [], "test": []}
    for file in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        batch = pickle.loads((raw / "cifar-10-batches-py" / file).read_bytes())
        images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        samples = [(image.tobytes(), label) for image, label in zip(images, batch[b"labels"], strict=True)]
        official["test" if file == "test_batch" else "train"] += samples
    assert_each_once(folds, official["train"], official["test"])


def test_an_official_validation_split_is_shared_out_too(raw: Path, tmp_path: Path) -> None:
    arguments = {"root": str(tmp_path), "source": str(raw)}
    plain = stored(TinyImageNet(**arguments))
    folds = folds_of(TinyImageNet, 2, **arguments)
    development = Counter(plain["train"]) + Counter(plain["val"])
    assert sum((Counter(fold["val"]) for fold in folds), Counter()) == development
    assert all(fold["test"] == plain["test"] for fold in folds)


def test_folds_are_those_of_the_seed() -> None:
    labels = np.arange(60) % 3
    samples = Samples(np.arange(60, dtype=np.uint8).reshape(-1, 1, 1, 1), labels)
    for seed in (1, 2):
        expected = list(StratifiedKFold(4, shuffle=True, random_state=seed).split(labels, labels))
        for fold in range(1, 5):
            splits = Splitting(0.1, 0.25, False, seed, 4, fold).complete({"train": samples, "test": samples})
            assert splits["val"].images.ravel().tolist() == expected[fold - 1][1].tolist()


def test_the_recipe_names_folds_only_where_there_are_any() -> None:
    assert "folds" not in Digits().recipe
    assert Digits().folder.name == "digits-b66946b71665"  # as in docs/data_format.md
    folders = {Digits(folds=5, fold=fold).folder for fold in range(1, 6)} | {Digits(folds=6, fold=1).folder}
    assert len(folders) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"folds": 5}, "folds and fold go together"),
        ({"fold": 1}, "folds and fold go together"),
        ({"folds": 1, "fold": 1}, "folds is 1; it must be at least 2"),
        ({"folds": 5, "fold": 0}, "fold is 0; it must lie between 1 and 5"),
        ({"folds": 5, "fold": 6}, "fold is 6; it must lie between 1 and 5"),
        ({"folds": 5, "fold": 1, "validate_on_test": True}, "leave out one of both"),
    ],
)
def test_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Digits(**arguments)


def test_more_folds_than_a_class_has_samples(raw: Path, tmp_path: Path) -> None:
    data = CIFAR10(root=str(tmp_path), source=str(raw), folds=31, fold=1)
    with pytest.raises(ValueError, match="smallest class has 30 samples to train and validate, too few for 31 folds"):
        data.prepare_data()
    assert not list(tmp_path.glob("cifar10-*"))
