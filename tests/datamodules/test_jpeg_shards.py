"""JPEG shards: the same rows as raw ones but for what JPEG loses, exact statistics, and damage that is named."""

import io
import pickle
from pathlib import Path
from types import SimpleNamespace

import albumentations as A
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import Digits, jpeg
from datamodules.audit import audit
from datamodules.augmentation import AugmentedPictures
from datamodules.manifest import Manifest
from datamodules.pack import pack
from datamodules.samples import Samples
from datamodules.shards import ShardDataset

CLASSES = ["a", "b", "c"]
SIZE = 24


def smooth(rows: int, seed: int, size: int = SIZE) -> np.ndarray:
    """Pictures uint8 ``(rows, size, size, 3)`` of one colour that changes slowly, as JPEG expects them."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (rows, 2, 2, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((size, size), Image.Resampling.BILINEAR)) for c in corners])


def pack_jpeg(folder: Path, quality: int = 90, shard_bytes: int = 20_000, **sizes: int) -> dict[str, Samples]:
    rows = {"train": 70, "val": 9, "test": 11, **sizes}
    splits = {
        split: Samples(smooth(count, seed), np.random.default_rng(seed).integers(0, 3, count))
        for seed, (split, count) in enumerate(rows.items())
    }
    settings = {"shard_bytes": shard_bytes, "encoding": "jpeg", "jpeg_quality": quality}
    pack(folder, "tiny", CLASSES, {"image_size": SIZE}, splits, SIZE, **settings)
    return splits


def split_of(folder: Path, split: str) -> ShardDataset:
    return ShardDataset([folder / shard.file for shard in Manifest.load(folder).splits[split]])


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    for split, packed in pack_jpeg(tmp_path / "set", quality=100).items():
        dataset = split_of(tmp_path / "set", split)
        assert (len(dataset), dataset.image_shape, dataset.encoding) == (len(packed), (SIZE, SIZE, 3), "jpeg")
        rows = np.random.default_rng(9).permutation(len(dataset)).tolist()
        images, labels = dataset.__getitems__(rows)
        assert (images.dtype, images.shape) == (torch.uint8, (len(rows), SIZE, SIZE, 3))
        assert labels.tolist() == packed.labels[rows].tolist()
        assert np.abs(images.numpy().astype(int) - packed.images[rows]).mean() < 2
        assert torch.equal(dataset[rows[0]][0], images[0])


@pytest.mark.parametrize("flag", [jpeg.RGB, None])
def test_red_stays_red(monkeypatch: pytest.MonkeyPatch, flag: int | None) -> None:
    """Also where OpenCV is too old to decode to RGB by itself."""
    monkeypatch.setattr(jpeg, "RGB", flag)
    for colour in ((250, 10, 10), (10, 250, 10), (10, 10, 250)):
        data = jpeg.encode(np.full((16, 16, 3), colour, np.uint8), 95)
        for decoded in (jpeg.decode(data), np.asarray(Image.open(io.BytesIO(data.tobytes())))):
            np.testing.assert_allclose(decoded.mean(axis=(0, 1)), colour, atol=4)


def test_statistics_are_those_of_the_decoded_pictures(tmp_path: Path) -> None:
    packed = pack_jpeg(tmp_path / "set", quality=30, train=600)["train"].images
    manifest, train = Manifest.load(tmp_path / "set"), split_of(tmp_path / "set", "train")
    decoded = train.__getitems__(list(range(600)))[0].numpy().astype(np.float64)
    np.testing.assert_allclose(manifest.channel_mean, decoded.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(manifest.channel_std, decoded.std(axis=(0, 1, 2)), rtol=1e-12)
    with h5py.File(tmp_path / "set" / manifest.statistics.file) as file:
        np.testing.assert_allclose(file["mean_image"][:], decoded.mean(axis=0), rtol=1e-12)
    assert np.abs(np.array(manifest.channel_std) - packed.std(axis=(0, 1, 2))).max() > 1e-6  # JPEG has changed them


def test_the_format_is_as_documented(tmp_path: Path) -> None:
    splits = pack_jpeg(tmp_path / "set")
    start = 0
    for shard in Manifest.load(tmp_path / "set").splits["train"]:
        with h5py.File(tmp_path / "set" / shard.file) as file:
            images, offsets, labels = (file[name] for name in ("images", "offsets", "labels"))
            assert (images.dtype, offsets.dtype, labels.dtype) == (np.uint8, np.dtype("<i8"), np.dtype("<i8"))
            assert images.attrs["picture_shape"].tolist() == [SIZE, SIZE, 3]
            assert offsets.shape == (shard.rows + 1,)
            assert offsets[0] == 0
            assert offsets[-1] == len(images)
            assert all(file[name].id.get_offset() is not None for name in file)
            for row in range(shard.rows):
                picture = Image.open(io.BytesIO(images[offsets[row] : offsets[row + 1]].tobytes()))
                assert (picture.format, picture.size) == ("JPEG", (SIZE, SIZE))
            assert labels[:].tolist() == splits["train"].labels[start : start + shard.rows].tolist()
            start += shard.rows
    assert start == 70


@pytest.mark.parametrize("shard_bytes", [1, 5_000, 10**9])
def test_shards_are_as_full_as_they_may_be(tmp_path: Path, shard_bytes: int) -> None:
    pack_jpeg(tmp_path / "set", shard_bytes=shard_bytes)
    shards = Manifest.load(tmp_path / "set").splits["train"]
    assert sum(shard.rows for shard in shards) == 70
    sizes = []
    for number, shard in enumerate(shards):
        assert shard.file == f"train-{number:05d}-of-{len(shards):05d}.h5"
        with h5py.File(tmp_path / "set" / shard.file) as file:
            sizes.append(np.diff(file["offsets"][:]))
    for mine, following in zip(sizes, [*sizes[1:], None], strict=True):
        assert mine.sum() <= shard_bytes or len(mine) == 1
        assert following is None or mine.sum() + following[0] > shard_bytes
    assert {1: 70, 10**9: 1}.get(shard_bytes, len(shards)) == len(shards)


def test_same_pictures_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        pack_jpeg(tmp_path / name)
    assert Manifest.load(tmp_path / "one") == Manifest.load(tmp_path / "two")


def test_less_quality_takes_less_space(tmp_path: Path) -> None:
    for quality in (50, 95):
        pack_jpeg(tmp_path / str(quality), quality)
    small, large = (split_of(tmp_path / str(quality), "train").bytes for quality in (50, 95))
    assert small < large < 70 * SIZE * SIZE * 3


def test_a_pickled_dataset_reads_the_same(tmp_path: Path) -> None:
    pack_jpeg(tmp_path / "set")
    dataset = split_of(tmp_path / "set", "train")
    expected = dataset.__getitems__([69, 3, 3])
    copy = pickle.loads(pickle.dumps(dataset))
    assert all(map(torch.equal, copy.__getitems__([69, 3, 3]), expected))


def test_transforms_see_the_decoded_pictures(tmp_path: Path) -> None:
    pack_jpeg(tmp_path / "set")
    dataset = split_of(tmp_path / "set", "train")
    keys = np.array([69, 0, 70 + 5])
    ((images, rows, places),), labels = AugmentedPictures(dataset, [A.HorizontalFlip(p=1)], seed=1).gather(keys)
    plain, expected = dataset.__getitems__([69, 0, 5])
    np.testing.assert_array_equal(images[rows][np.argsort(places)], plain.flip(2).numpy())
    assert labels.tolist() == expected.tolist()


def damaged(folder: Path, row: int, content: np.ndarray) -> None:
    """Overwrite the beginning of a row of the first training shard."""
    with h5py.File(folder / Manifest.load(folder).splits["train"][0].file, "r+") as file:
        start = file["offsets"][row]
        file["images"][start : start + len(content)] = content


def test_labels_alone_are_read_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = pack_jpeg(tmp_path / "set")
    monkeypatch.setattr("datamodules.shards.decode", None)
    for split, packed in splits.items():
        assert np.array_equal(split_of(tmp_path / "set", split).labels, packed.labels)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("broken", [[0], [12, 13, 14], [3, 7, 11]])
def test_labels_stay_with_their_pictures_where_some_are_left_out(
    tmp_path: Path, encoding: jpeg.Encoding, broken: list[int]
) -> None:
    paths = [tmp_path / f"{row}.png" for row in range(15)]
    for row, path in enumerate(paths):
        Image.new("RGB", (SIZE, SIZE), (17 * row,) * 3).save(path)
    for row in broken:
        paths[row].write_bytes(b"no picture")
    labels = np.arange(15)
    whole = Samples(np.zeros((1, SIZE, SIZE, 3), np.uint8), np.array([0]))
    splits = {"train": Samples(paths, labels), "val": whole, "test": whole}
    settings = {"shard_bytes": 4 * SIZE**2 * 3 if encoding == "raw" else 2_000, "encoding": encoding}
    manifest = pack(tmp_path / "set", "x", [str(n) for n in labels], {}, splits, SIZE, skip_broken=True, **settings)
    assert manifest.skipped == [paths[row].name for row in broken]
    assert len(manifest.splits["train"]) > 1
    images, found = split_of(tmp_path / "set", "train").__getitems__(range(15 - len(broken)))
    assert found.tolist() == [row for row in range(15) if row not in broken]
    np.testing.assert_allclose(images.numpy().mean(axis=(1, 2, 3)), 17 * found.numpy(), atol=2)
    np.testing.assert_allclose(manifest.channel_mean, images.numpy().mean(axis=(0, 1, 2)), rtol=1e-12)
    assert list(audit(tmp_path / "set")) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [(np.zeros(100, np.uint8), "no picture"), (jpeg.encode(np.zeros((4, 4, 3), np.uint8), 10), r"shape \(4, 4, 3\)")],
)
def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path, content: np.ndarray, reason: str) -> None:
    pack_jpeg(tmp_path / "set", shard_bytes=10**9)
    damaged(tmp_path / "set", 4, content)
    dataset = split_of(tmp_path / "set", "train")
    assert len(dataset.__getitems__([3, 5])[0]) == 2
    with pytest.raises(ValueError, match=rf"row 4 of .*train-00000-of-00001\.h5 cannot be decoded.*{reason}.*delete"):
        dataset.__getitems__([3, 4])


@pytest.mark.parametrize("offsets", [[0, 5], [0, 9, 8, 12], [1, 5, 9, 12], [0, 5, 9, 11], [0, 5, 5, 12]])
def test_wrong_offsets_are_refused(tmp_path: Path, offsets: list[int]) -> None:
    path = tmp_path / "shard.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(12, np.uint8)
        file["images"].attrs["picture_shape"] = (4, 4, 3)
        file["offsets"], file["labels"] = np.array(offsets, "<i8"), np.zeros(3, "<i8")
    with pytest.raises(ValueError, match=r"shard\.h5 is not a readable shard \((offsets do not rise|labels)"):
        ShardDataset([path])


def test_the_encoding_is_part_of_the_recipe_only_where_it_matters(tmp_path: Path) -> None:
    raw = Digits(root=str(tmp_path))
    assert raw.recipe == Digits(root=str(tmp_path), encoding="raw", jpeg_quality=50).recipe
    assert not {"encoding", "jpeg_quality"} & raw.recipe.keys()
    kinds = [raw, *(Digits(root=str(tmp_path), encoding="jpeg", jpeg_quality=q) for q in (50, 90))]
    assert len({data.folder for data in kinds}) == 3
    assert kinds[2].recipe == raw.recipe | {"encoding": "jpeg", "jpeg_quality": 90}


@pytest.mark.parametrize("quality", [0, 101])
def test_quality_out_of_range(quality: int) -> None:
    with pytest.raises(ValueError, match="jpeg_quality"):
        Digits(encoding="jpeg", jpeg_quality=quality)


class JpegDigits(Digits):
    """A data set that is stored as JPEG unless told otherwise."""

    default_encoding = "jpeg"


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_read_them_as_any_other(tmp_path: Path, workers: int) -> None:
    data = JpegDigits(root=str(tmp_path), normalization="unit", num_workers=workers)
    data.trainer = SimpleNamespace(
        world_size=1,
        global_rank=0,
        training=False,
        validating=False,
        sanity_checking=False,
        predicting=False,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        lightning_module=SimpleNamespace(dtype=torch.float32),
    )
    data.prepare_data()
    data.setup("test")
    assert data.splits["test"].encoding == "jpeg"
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    expected, labels = data.splits["test"].__getitems__(list(range(len(data.splits["test"]))))
    assert torch.equal(torch.cat([label for _, label in batches]), labels)
    images = torch.cat([image for image, _ in batches])
    torch.testing.assert_close(images, expected.permute(0, 3, 1, 2) / 255)
    assert Digits(root=str(tmp_path), encoding="raw").folder != data.folder
