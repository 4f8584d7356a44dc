"""Packing: what goes in comes out, the statistics are exact, and nothing unfinished looks whole."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from datamodules.manifest import Manifest, sha256, verify
from datamodules.pack import pack
from datamodules.picture_files import fit
from datamodules.samples import Samples
from datamodules.shards import ShardDataset

CLASSES = ["a", "b", "c"]


def samples(rows: int, size: int = 8, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    return Samples(rng.integers(0, 256, (rows, size, size, 3), np.uint8), rng.integers(0, 3, rows))


def pack_arrays(folder: Path, rows: int = 50, shard_bytes: int = 20 * 8 * 8 * 3, seed: int = 0) -> dict[str, Samples]:
    splits = {"train": samples(rows, seed=seed), "val": samples(7, seed=seed + 1), "test": samples(9, seed=seed + 2)}
    pack(folder, "tiny", CLASSES, {"image_size": 8}, splits, 8, shard_bytes=shard_bytes)
    return splits


def test_every_row_comes_back(tmp_path: Path) -> None:
    splits = pack_arrays(tmp_path / "set")
    manifest = Manifest.load(tmp_path / "set")
    assert manifest.row_files is None  # these come from no files
    assert [shard.rows for shard in manifest.splits["train"]] == [17, 17, 16]  # 50 rows, 20 at most a shard
    for split, expected in splits.items():
        dataset = ShardDataset([tmp_path / "set" / shard.file for shard in manifest.splits[split]])
        images, labels = dataset.__getitems__(list(range(len(dataset))))
        np.testing.assert_array_equal(images.numpy(), expected.images)
        np.testing.assert_array_equal(labels.numpy(), expected.labels)


def test_statistics_equal_numpy_over_the_whole_training_split(tmp_path: Path) -> None:
    train = pack_arrays(tmp_path / "set", rows=2500)["train"].images.astype(np.float64)
    manifest = Manifest.load(tmp_path / "set")
    np.testing.assert_allclose(manifest.channel_mean, train.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(manifest.channel_std, train.std(axis=(0, 1, 2)), rtol=1e-12)
    with h5py.File(tmp_path / "set" / manifest.statistics.file) as file:
        np.testing.assert_allclose(file["mean_image"][:], train.mean(axis=0), rtol=1e-12)
        assert file["mean_image"].dtype == np.float64


def test_same_pictures_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        pack_arrays(tmp_path / name)
    assert Manifest.load(tmp_path / "one") == Manifest.load(tmp_path / "two")


def test_all_is_on_the_disk_before_the_set_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, flushed = tmp_path / "set", {}
    monkeypatch.setattr(os, "fsync", lambda file: flushed.update({os.fstat(file).st_ino: folder.exists()}))
    pack_arrays(folder)
    expected = {path.stat().st_ino: False for path in (folder, *folder.iterdir())}
    assert flushed == {**expected, tmp_path.stat().st_ino: True}


def test_refuses_to_overwrite_unless_told(tmp_path: Path) -> None:
    pack_arrays(tmp_path / "set")
    before = (tmp_path / "set" / "manifest.json").read_bytes()
    with pytest.raises(FileExistsError, match="already there"):
        pack_arrays(tmp_path / "set", seed=5)
    assert (tmp_path / "set" / "manifest.json").read_bytes() == before
    splits = {split: samples(9, seed=5) for split in ("train", "val", "test")}
    pack(tmp_path / "set", "tiny", CLASSES, {}, splits, 8, overwrite=True)
    assert Manifest.load(tmp_path / "set").splits["train"][0].rows == 9
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"set"}


def test_files_are_decoded_and_fitted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for number, size in enumerate([(16, 8), (8, 16), (8, 8), (40, 30)]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(paths[-1])
    files = Samples(paths, np.array([0, 1, 2, 0]))
    pack(tmp_path / "set", "tiny", CLASSES, {}, {"train": files, "val": files, "test": files}, 8)
    images, labels = ShardDataset([tmp_path / "set" / "train-00000-of-00001.h5"]).__getitems__([0, 1, 2, 3])
    for image, path in zip(images.numpy(), paths, strict=True):
        np.testing.assert_array_equal(image, fit(Image.open(path), 8))
    assert labels.tolist() == [0, 1, 2, 0]


def test_the_digest_of_the_sources_is_that_of_their_bytes_and_labels(tmp_path: Path) -> None:
    """As docs/data_format.md says: of files, and of arrays of the stored size and of another one."""
    train, val, test = samples(3, size=64), samples(2), samples(2, size=12)
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for path, image in zip(paths, train.images, strict=True):
        Image.fromarray(image).save(path)
    splits = {"train": Samples(paths, np.array([2, 0, 1])), "val": val, "test": test}
    contents = [path.read_bytes() for path in paths] + [
        image.tobytes() for part in (val, test) for image in part.images
    ]
    labels = [2, 0, 1, *val.labels.tolist(), *test.labels.tolist()]
    expected = hashlib.sha256()
    for content, label in zip(contents, labels, strict=True):
        expected.update(hashlib.sha256(content).digest() + bytes([label, 0, 0, 0, 0, 0, 0, 0]))
    manifest = pack(tmp_path / "set", "tiny", CLASSES, {"image_size": 8}, splits, 8)
    assert manifest.source_sha256 == expected.hexdigest()


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "missing"])
def test_a_broken_picture_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "broken.jpg"
    Image.fromarray(samples(1, 64).images[0]).save(path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "text": b"not found"}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    files = Samples([path], np.array([0]))
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        pack(tmp_path / "set", "tiny", CLASSES, {}, {"train": files, "val": files, "test": files}, 8)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_out_of_range_are_refused(tmp_path: Path, labels: list[int]) -> None:
    bad = Samples(samples(2).images, np.array(labels))
    with pytest.raises(ValueError, match="labels outside"):
        pack(tmp_path / "set", "tiny", CLASSES, {}, {"train": bad}, 8)


def test_a_split_without_pictures_is_named(tmp_path: Path) -> None:
    whole, empty = samples(4), Samples(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="the val split of tiny is empty; choose other split fractions"):
        pack(tmp_path / "set", "tiny", CLASSES, {}, {"train": whole, "val": empty, "test": whole}, 8)
    (tmp_path / "text.jpg").write_text("no picture")
    broken = Samples([tmp_path / "text.jpg"], np.array([0]))
    for encoding in ("raw", "jpeg"):
        splits, settings = {"train": whole, "val": broken, "test": whole}, {"encoding": encoding, "skip_broken": True}
        with pytest.raises(ValueError, match="no picture of the val split of tiny can be read"):
            pack(tmp_path / "set", "tiny", CLASSES, {}, splits, 8, **settings)
    assert not (tmp_path / "set").exists()


PACKING = """
import sys, numpy as np
from pathlib import Path
from datamodules.pack import pack
from datamodules.samples import Samples
rng = np.random.default_rng(0)
some = Samples(rng.integers(0, 256, (4000, 16, 16, 3), np.uint8), rng.integers(0, 3, 4000))
pack(Path(sys.argv[1]), "tiny", "abc", {}, dict(train=some, val=some, test=some), 8, shard_bytes=100 * 192)
"""


def test_two_processes_pack_one_after_the_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PACKING, str(tmp_path / "set")]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1].decode() for process in running]
    assert sorted(process.returncode for process in running) == [0, 1]
    assert "FileExistsError" in "".join(errors)
    verify(tmp_path / "set", Manifest.load(tmp_path / "set"))


@pytest.mark.parametrize("where", ["start", "middle", "end", "statistics"])
def test_verify_finds_an_edited_byte_a_second_later(tmp_path: Path, where: str) -> None:
    pack_arrays(tmp_path / "set")
    manifest = Manifest.load(tmp_path / "set")
    verify(tmp_path / "set", manifest)
    verify(tmp_path / "set", manifest)  # from the stamps this time
    path = tmp_path / "set" / ("statistics.h5" if where == "statistics" else "train-00001-of-00003.h5")
    content = bytearray(path.read_bytes())
    content[{"start": 0, "end": -1}.get(where, len(content) // 2)] ^= 1
    path.write_bytes(content)
    os.utime(path, (time.time() + 1, time.time() + 1))
    with pytest.raises(ValueError, match=rf"{path.name} was changed.*delete the folder"):
        verify(tmp_path / "set", manifest)


def test_a_proof_holds_for_the_checksum_that_was_proved_alone(tmp_path: Path) -> None:
    """A manifest that promises other bytes of a file that nobody has touched."""
    pack_arrays(tmp_path / "set")
    path, shard = tmp_path / "set" / "manifest.json", Manifest.load(tmp_path / "set").splits["val"][0]
    path.write_text(path.read_text().replace(shard.sha256, "0" * 64))
    line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  manifest.json\n"
    (tmp_path / "set" / "manifest.sha256").write_text(line)
    with pytest.raises(ValueError, match=rf"{shard.file} was changed"):
        verify(tmp_path / "set", Manifest.load(tmp_path / "set"))


def test_what_was_packed_is_not_read_again_to_prove_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack_arrays(tmp_path / "set")
    read = []
    monkeypatch.setattr("datamodules.manifest.sha256", lambda path: read.append(path.suffix) or sha256(path))
    verify(tmp_path / "set", Manifest.load(tmp_path / "set"))
    assert read == [".json"]  # the manifest alone


def test_verify_finds_a_truncated_and_a_missing_shard(tmp_path: Path) -> None:
    pack_arrays(tmp_path / "set")
    manifest, path = Manifest.load(tmp_path / "set"), tmp_path / "set" / "val-00000-of-00001.h5"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="val-00000-of-00001.h5 has .* bytes instead of"):
        verify(tmp_path / "set", manifest)
    path.unlink()
    with pytest.raises(ValueError, match="is missing"):
        verify(tmp_path / "set", manifest)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format_version": 99}', "{"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="delete the folder"):
        Manifest.load(tmp_path)


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    pack_arrays(tmp_path / "set")
    fields = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert fields["classes"] == CLASSES
    assert fields["recipe"] == {"image_size": 8}


@pytest.mark.slow
def test_sixty_thousand_pictures_are_packed_in_twenty_seconds(tmp_path: Path) -> None:
    splits = {"train": samples(50_000, 32), "val": samples(5_000, 32), "test": samples(5_000, 32)}
    began = time.perf_counter()
    pack(tmp_path / "set", "many", CLASSES, {}, splits, 32)
    assert time.perf_counter() - began < 20
