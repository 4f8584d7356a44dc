"""Pairs of windows: from the right places, shrunk and enlarged as bicubic interpolation does, split by photograph."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import PhotographPairs
from datamodules.pair_windows import PairWindows
from datamodules.resident import RowsOnly

SIZES = ((70, 52), (48, 61), (33, 40), (75, 34), (47, 47), (64, 36), (40, 40), (36, 50))  # width, height


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight, two of them in a folder below; and files that are left out."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    (folder / "below").mkdir()
    for number, size in enumerate(SIZES):
        coarse = rng.integers(0, 256, (7, 9, 3), np.uint8)
        path = folder / ("below" if number < 2 else ".") / f"{number}.png"
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    Image.new("RGB", (32, 400)).save(folder / "narrow.jpg")
    Image.new("RGB", (40, 40)).save(folder / ".hidden.png")
    (folder / "notes.txt").write_text("no photograph")
    return folder


def packed(root: Path, source: Path, **arguments: object) -> PhotographPairs:
    data = PhotographPairs(root=str(root), source=str(source), **arguments)
    data.prepare_data()
    data.setup("test")
    return data


def rows_of(data: PhotographPairs) -> tuple[np.ndarray, np.ndarray]:
    """Pairs and labels of all splits."""
    rows = [split.__getitems__(range(len(split))) for split in data.splits.values()]
    return tuple(np.concatenate([part[i].numpy() for part in rows]) for i in (0, 1))


def kernel(x: np.ndarray) -> np.ndarray:
    """Bicubic convolution with a = -0.5 (Keys 1981)."""
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


def resized(lines: np.ndarray, length: int) -> np.ndarray:
    """Each of the columns ``(H, ...)`` at another length, with the kernel widened where it becomes shorter."""
    scale = len(lines) / length
    centres, wide = (np.arange(length) + 0.5) * scale, max(scale, 1)
    weights = kernel((np.arange(len(lines)) + 0.5 - centres[:, None]) / wide)
    return np.tensordot(weights / weights.sum(axis=1, keepdims=True), lines, axes=1)


def interpolated(original: np.ndarray, factor: int) -> np.ndarray:
    """A picture ``(H, W, C)``, shrunk and enlarged again."""
    height, width = original.shape[:2]
    values = original.astype(float)
    for rows, columns in ((height // factor, width // factor), (height, width)):
        values = resized(resized(values, rows).swapaxes(0, 1), columns).swapaxes(0, 1).round().clip(0, 255)
    return values


@pytest.mark.parametrize(("colour", "factor"), [("rgb", 2), ("luminance", 3), ("luminance", 4)])
def test_a_row_is_a_window_of_the_bicubic_copy_and_of_the_photograph(
    photographs: Path, tmp_path: Path, colour: str, factor: int
) -> None:
    data = packed(tmp_path, photographs, colour=colour, upscale_factor=factor, windows_per_photograph=1000)
    pairs, labels = rows_of(data)
    channels = 3 if colour == "rgb" else 1
    assert pairs.shape[1:] == (33, 33, 2 * channels)
    seen = 0
    for label, name in enumerate(data.classes):
        original = np.asarray(Image.open(photographs / name))
        if colour == "luminance":
            original = (original @ [0.299, 0.587, 0.114]).round()[..., None]
        height, width = (length // factor * factor for length in original.shape[:2])
        original = original[:height, :width]
        copy = interpolated(original, factor)
        expected = [
            np.concatenate([image[y : y + 33, x : x + 33] for image in (copy, original)], axis=2)
            for y in range(0, height - 32, 14)
            for x in range(0, width - 32, 14)
        ]
        mine = pairs[labels == label].astype(float)
        assert len(mine) == len(expected)
        for window in expected:
            difference = np.abs(mine - window)
            nearest = difference.mean(axis=(1, 2, 3)).argmin()
            assert difference[nearest, ..., channels:].max() <= (colour == "luminance")  # rounding of the luminance
            assert difference[nearest, ..., :channels].max() <= 3  # rounding after each of four steps
            assert difference[nearest, ..., :channels].mean() < 0.5
        seen += len(mine)
    assert seen == len(pairs)


def test_all_windows_of_a_photograph_are_in_one_split(photographs: Path, tmp_path: Path) -> None:
    data = packed(tmp_path, photographs, val_fraction=0.25, test_fraction=0.25)
    assert data.classes == sorted(f"below/{n}.png" if n < 2 else f"{n}.png" for n in range(8) if n != 2)
    found = {split: data.photographs(split) for split in ("train", "val", "test")}
    assert {split: len(paths) for split, paths in found.items()} == {"train": 3, "val": 2, "test": 2}
    assert len({path for paths in found.values() for path in paths}) == 7
    assert all(path.is_file() for paths in found.values() for path in paths)
    other = packed(tmp_path, photographs, val_fraction=0.25, test_fraction=0.25, split_seed=1)
    assert other.photographs("test") != found["test"]


def test_windows_are_drawn_at_random_and_not_twice(photographs: Path, tmp_path: Path) -> None:
    data = packed(tmp_path / "a", photographs, windows_per_photograph=3)
    pairs, labels = rows_of(data)
    counts = np.bincount(labels)
    for number, (width, height) in enumerate(SIZES):
        name = f"below/{number}.png" if number < 2 else f"{number}.png"
        if name in data.classes:
            whole = ((width // 2 * 2 - 33) // 14 + 1) * ((height // 2 * 2 - 33) // 14 + 1)
            assert counts[data.classes.index(name)] == min(3, whole)
    assert len(np.unique(pairs.reshape(len(pairs), -1), axis=0)) == len(pairs)
    again = packed(tmp_path / "b", photographs, windows_per_photograph=3)
    assert again.checksum_of("train") == data.checksum_of("train")
    larger = packed(tmp_path / "a", photographs, windows_per_photograph=1000)
    assert len(larger.splits["train"]) > len(data.splits["train"])


def test_each_photograph_and_seed_has_a_choice_of_its_own() -> None:
    """Of ten windows side by side, which the grey of their first column tells apart."""
    photograph = Image.fromarray(np.tile(np.arange(160, dtype=np.uint8), (34, 1)))

    def chosen(seed: int, number: int) -> list[int]:
        rows = PairWindows(2, "luminance", 4, seed)(photograph, number, 33)
        return (rows[:, 0, 0, 1] // 14).tolist()

    choices = [chosen(seed, number) for seed in (1, 2) for number in range(10)]
    assert all(len(set(choice)) == 4 for choice in choices)
    assert len({tuple(choice) for choice in choices}) == 20
    assert {place for choice in choices for place in choice} == set(range(10))
    assert chosen(2, 9) == choices[-1]


def test_folders_of_the_same_name_are_packed_apart(photographs: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(photographs, tmp_path / photographs.name)
    (copy / "7.png").unlink()
    first, second = (packed(tmp_path / "data", source) for source in (photographs, copy))
    assert first.folder != second.folder
    assert (len(first.classes), len(second.classes)) == (7, 6)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_resident_pairs_are_those_of_their_rows(photographs: Path, tmp_path: Path, split: str) -> None:
    data = packed(tmp_path, photographs, val_fraction=0.25, test_fraction=0.25, resident=True)
    module, stored = SimpleNamespace(dtype=torch.float32), data.splits[split]
    stage = {"training": split == "train", "validating": split == "val", "sanity_checking": False}
    data.trainer = SimpleNamespace(lightning_module=module, **stage)
    rows = [2, 0, 1]
    keys = [3 * len(stored) + row for row in rows]  # of the fourth epoch
    pair = data.on_after_batch_transfer(RowsOnly(len(stored)).__getitems__(keys), 0)
    expected = stored.__getitems__(rows)[0].permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(torch.cat(pair, dim=1), expected)


def test_photographs_without_a_window_are_left_out(photographs: Path, tmp_path: Path) -> None:
    assert "2.png" in packed(tmp_path, photographs, upscale_factor=3).classes  # 33 pixels wide
    assert "2.png" not in packed(tmp_path, photographs, upscale_factor=2).classes  # 32 of 33
    (tmp_path / "small").mkdir()
    Image.new("RGB", (32, 99)).save(tmp_path / "small/a.png")
    with pytest.raises(ValueError, match="all 1 pictures below .* smaller than a window of 33x33"):
        packed(tmp_path, tmp_path / "small")


def test_a_folder_without_photographs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no photographs"):
        packed(tmp_path, tmp_path / "empty")
    (tmp_path / "alone.png").touch()
    with pytest.raises(FileNotFoundError, match="alone.png is not a folder"):
        packed(tmp_path, tmp_path / "alone.png")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        packed(tmp_path, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="--data.source FOLDER"):
        PhotographPairs(root=str(tmp_path)).prepare_data()


def test_too_few_photographs_for_three_splits(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 40)).save(tmp_path / f"two/{name}.png")
    with pytest.raises(ValueError, match="holds 2 photographs that can be used; at least 3"):
        packed(tmp_path, tmp_path / "two")


def test_a_broken_photograph_is_named_or_left_out(photographs: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3, 8):
        (source / f"{number}.png").write_bytes((photographs / f"{number}.png").read_bytes())
    (source / "broken.png").write_bytes((photographs / "7.png").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        packed(tmp_path, source)
    data = packed(tmp_path, source, skip_broken=True)
    assert all("broken" not in path.name for split in data.splits for path in data.photographs(split))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"upscale_factor": 5}, "upscale_factor is 5; photographs are enlarged by 2, 3 or 4"),
        ({"windows_per_photograph": 0}, "windows_per_photograph is 0"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
    ],
)
def test_settings_that_cannot_be(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PhotographPairs(source="photographs", **arguments)
