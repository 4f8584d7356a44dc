"""Pack pictures into HDF5 shards: once, atomically, with exact statistics of the training split."""

import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.jpeg import Encoding, decode, encode
from datamodules.lock import one_at_a_time
from datamodules.manifest import (
    FILES,
    FORMAT_VERSION,
    MANIFEST,
    MANIFEST_SHA256,
    VERIFIED,
    Manifest,
    Shard,
    checksum_line,
    sha256,
    stamp,
)
from datamodules.samples import Pictures, Reading, Samples, Windows
from datamodules.shards import row_checksum, write_shard

SHARD_BYTES = 256 * 2**20

logger = logging.getLogger("litvision")

Rows = Sequence[np.ndarray]  # of a shard, each as it is stored


def pack(
    folder: Path,
    dataset: str,
    classes: Sequence[str],
    recipe: dict[str, Any],
    splits: dict[str, Samples],
    image_size: int,
    *,
    source_files: str = "",
    official: bool | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    encoding: Encoding = "raw",
    jpeg_quality: int = 90,
    skip_broken: bool = False,
    windows: Windows | None = None,
    raw: Path | None = None,
) -> Manifest:
    """Write the splits as shards and a manifest into ``folder``.

    Everything is written into a folder beside it, flushed to disk, and renamed at the end: a run that is stopped
    leaves no ``folder``, and the next one starts over. Two processes packing the same folder wait for each other.

    Args:
        folder: the set's folder, made here.
        recipe: all that decides the content besides the pictures, as plain JSON values.
        splits: ``train``, ``val`` and ``test``; the statistics are those of ``train``.
        image_size: height and width of the stored pictures; others are resized by ``fit``.
        source_files: fingerprint of the raw files, kept in the manifest.
        official: whether they are the published ones, kept there too; None where that is not known.
        shard_bytes: size that a shard's pictures do not exceed (a single picture may).
        encoding: pixels as they are, or JPEG; the statistics are those of the pictures that decoding gives.
        jpeg_quality: 1 to 100.
        skip_broken: leave out pictures that cannot be read, up to one in twenty (or five); the log and the manifest
            name them.
        windows: makes rows of each picture; without them, a picture is scaled and cropped into one RGB row.
        raw: folder of the raw files; the set then names the file of each row, as it is called from there.

    Raises:
        FileExistsError: ``folder`` is there and ``overwrite`` is false.
        OSError: the disk refuses it; nothing is left.
        ValueError: a picture cannot be read, a label is out of range, or a split is empty.
    """
    for split, samples in splits.items():
        if not len(samples):
            raise ValueError(f"the {split} split of {dataset} is empty; choose other split fractions")
        if samples.labels.min() < 0 or samples.labels.max() >= len(classes):
            raise ValueError(f"the {split} split of {dataset} has labels outside 0..{len(classes) - 1}")
    with _whole_folder(folder, overwrite, f"packing {dataset}") as unfinished:
        shape = image_size, image_size, windows.channels if windows else 3
        statistics = _Statistics(shape)
        reading = Reading(dataset, sum(map(len, splits.values())), image_size, skip_broken, windows, raw)
        shards: dict[str, list[Shard]] = {}
        files: dict[str, list[str]] = {}
        with reading.progress, ThreadPoolExecutor(os.cpu_count()) as threads:
            for split, samples in splits.items():
                pictures, seen = reading.pictures(samples, threads), statistics if split == "train" else None
                start = len(reading.files)
                if encoding == "raw":
                    count = len(samples) * (windows.most if windows else 1)
                    parts = _raw(pictures, count, shape, shard_bytes, seen)
                else:
                    parts = _jpeg(pictures, jpeg_quality, shard_bytes, threads, seen)
                shards[split] = _write_split(unfinished, split, parts, shape)
                files[split] = reading.files[start:]
                if not shards[split]:
                    raise ValueError(f"no picture of the {split} split of {dataset} can be read")
        write_shard(unfinished / "statistics.h5", mean_image=statistics.mean_image())
        if any(reading.files):
            (unfinished / FILES).write_text(json.dumps(files, ensure_ascii=False, indent=0), encoding="utf-8")
        manifest = Manifest(
            FORMAT_VERSION,
            dataset,
            list(classes),
            recipe,
            source_files,
            reading.digest.hexdigest(),
            *statistics.channels(),
            _seal(unfinished / "statistics.h5", statistics.rows),
            shards,
            reading.skipped,
            official,
            _seal(unfinished / FILES, len(reading.files)) if any(reading.files) else None,
        )
        if reading.skipped:
            logger.warning("%d pictures of %s were left out, as they cannot be read", len(reading.skipped), dataset)
        _write_manifest(unfinished, manifest)
    return manifest


@contextmanager
def _whole_folder(folder: Path, overwrite: bool, doing: str) -> Iterator[Path]:
    """The temporary name to write a folder under: it is renamed at the end, or nothing of it remains."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder.with_name(f".{folder.name}.lock"), doing):
        if folder.exists() and not overwrite:
            raise FileExistsError(f"{folder} is already there; pass overwrite=True to replace it")
        unfinished, replaced = (folder.with_name(folder.name + ending) for ending in (".partial", ".replaced"))
        for leftover in (unfinished, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished.mkdir()
        try:
            yield unfinished
        except BaseException as error:
            shutil.rmtree(unfinished, ignore_errors=True)  # a full disk has no room for it
            if isinstance(error, OSError) and error.errno and not error.filename:  # HDF5 does not say which file
                raise OSError(error.errno, os.strerror(error.errno), str(folder)) from error
            raise
        if folder.exists():
            folder.rename(replaced)
        unfinished.rename(folder)
        _flush(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(manifest.dump(), encoding="utf-8")
    (folder / MANIFEST_SHA256).write_bytes(checksum_line(folder / MANIFEST))
    stamps = {shard.file: stamp(folder / shard.file, shard) for shard in manifest.files()}
    (folder / VERIFIED).write_text(json.dumps(stamps))  # they were read for their checksums just now
    for path in (folder / MANIFEST, folder / MANIFEST_SHA256, folder / VERIFIED, folder):
        _flush(path)


def _write_split(
    folder: Path, split: str, parts: Iterator[tuple[Rows, list[int]]], shape: tuple[int, int, int]
) -> list[Shard]:
    """Write the shards of a split; their names say how many there are, which is known at the end."""
    written: list[Shard] = []
    for rows, part in parts:
        labels = np.array(part, "<i8")
        crc32 = np.array([row_checksum(row, label) for row, label in zip(rows, part, strict=True)], "<u4")
        path = folder / f"{split}-{len(written):05d}.h5"
        if isinstance(rows, np.ndarray):
            write_shard(path, images=rows, labels=labels, crc32=crc32)
        else:
            offsets = np.cumsum([0, *map(len, rows)], dtype="<i8")
            arrays = {"images": np.concatenate(rows), "offsets": offsets, "labels": labels, "crc32": crc32}
            write_shard(path, shape, **arrays)
        written.append(_seal(path, len(rows)))
    shards = [replace(s, file=f"{Path(s.file).stem}-of-{len(written):05d}.h5") for s in written]
    for before, after in zip(written, shards, strict=True):
        (folder / before.file).rename(folder / after.file)
    return shards


def _raw(
    pictures: Pictures, count: int, shape: tuple[int, int, int], shard_bytes: int, seen: "_Statistics | None"
) -> Iterator[tuple[Rows, list[int]]]:
    """Rows of each shard, as pixels, and their labels; shards differ by at most one row, if there are ``count``."""
    shards = math.ceil(count / max(1, shard_bytes // math.prod(shape)))
    for part in np.array_split(np.arange(count), shards):
        images, labels = np.empty((len(part), *shape), np.uint8), []
        for row, (image, label) in enumerate(islice(pictures, len(part))):
            images[row] = image
            labels.append(label)
        if not labels:
            return
        images = images[: len(labels)]
        if seen:
            seen.add(images)
        yield images, labels


def _jpeg(
    pictures: Pictures, quality: int, shard_bytes: int, threads: ThreadPoolExecutor, seen: "_Statistics | None"
) -> Iterator[tuple[Rows, list[int]]]:
    """Rows of each shard, as JPEG bytes, and their labels; shards are as full as they may be."""
    rows: list[np.ndarray] = []
    labels: list[int] = []
    taken = 0
    while window := list(islice(pictures, 256)):
        encoded = list(threads.map(partial(encode, quality=quality), (image for image, _ in window)))
        if seen:
            seen.add(np.stack(list(threads.map(decode, encoded))))
        for data, (_, label) in zip(encoded, window, strict=True):
            if rows and taken + len(data) > shard_bytes:
                yield rows, labels
                rows, labels, taken = [], [], 0
            rows.append(data)
            labels.append(label)
            taken += len(data)
    if rows:
        yield rows, labels


class _Statistics:
    """Exact sums over the training split: integers, so that no order of addition can matter."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.rows = 0
        self.pixels = np.zeros(shape, np.int64)
        self.squares = [0] * shape[-1]

    def add(self, images: np.ndarray) -> None:
        self.rows += len(images)
        for start in range(0, len(images), 1024):
            part = images[start : start + 1024]
            self.pixels += part.sum(axis=0, dtype=np.int64)
            for channel in range(part.shape[-1]):
                histogram = np.bincount(part[..., channel].ravel(), minlength=256)
                self.squares[channel] += int(histogram @ np.arange(256, dtype=np.int64) ** 2)

    def mean_image(self) -> np.ndarray:
        return self.pixels / self.rows

    def channels(self) -> tuple[list[float], list[float]]:
        """Mean and (population) standard deviation of each channel."""
        count = self.rows * self.pixels.shape[0] * self.pixels.shape[1]
        totals = [int(total) for total in self.pixels.sum(axis=(0, 1))]
        variances = [(count * square - total**2) / count**2 for total, square in zip(totals, self.squares, strict=True)]
        return [total / count for total in totals], [math.sqrt(variance) for variance in variances]


def _seal(path: Path, rows: int) -> Shard:
    _flush(path)
    return Shard(path.name, rows, path.stat().st_size, sha256(path))


def _flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
