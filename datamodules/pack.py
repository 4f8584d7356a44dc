"""Pack pictures into HDF5 shards: once, atomically, with exact statistics of the training split."""

import hashlib
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image, ImageOps
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.jpeg import Encoding, decode, encode
from datamodules.shards import (
    FORMAT_VERSION,
    MANIFEST,
    MANIFEST_SHA256,
    Manifest,
    Shard,
    checksum_line,
    row_checksum,
    sha256,
    write_shard,
)

SHARD_BYTES = 256 * 2**20

Rows = Sequence[np.ndarray]  # of a shard, each as it is stored


@dataclass(frozen=True)
class Samples:
    """Pictures before packing: files, or an array uint8 ``(N, H, W, 3)``; and their labels ``(N,)``."""

    images: Sequence[Path] | np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Samples":
        """The named rows, in that order."""
        images = self.images[rows] if isinstance(self.images, np.ndarray) else [self.images[row] for row in rows]
        return Samples(images, self.labels[rows])


def pack(
    folder: Path,
    dataset: str,
    classes: Sequence[str],
    recipe: dict[str, Any],
    splits: dict[str, Samples],
    image_size: int,
    source_files: str = "",
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    encoding: Encoding = "raw",
    jpeg_quality: int = 90,
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
        shard_bytes: size that a shard's pictures do not exceed (a single picture may).
        encoding: pixels as they are, or JPEG; the statistics are those of the pictures that decoding gives.
        jpeg_quality: 1 to 100.

    Raises:
        FileExistsError: ``folder`` is there and ``overwrite`` is false.
        ValueError: a picture cannot be read, a label is out of range, or a split is empty.
    """
    for split, samples in splits.items():
        if not len(samples):
            raise ValueError(f"the {split} split of {dataset} is empty; choose other split fractions")
        if samples.labels.min() < 0 or samples.labels.max() >= len(classes):
            raise ValueError(f"the {split} split of {dataset} has labels outside 0..{len(classes) - 1}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists() and not overwrite:
            raise FileExistsError(f"{folder} is already there; pass overwrite=True to replace it")
        unfinished, replaced = (folder.with_name(folder.name + ending) for ending in (".partial", ".replaced"))
        for leftover in (unfinished, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished.mkdir()
        quality = jpeg_quality if encoding == "jpeg" else None
        manifest = _write(unfinished, dataset, classes, recipe, splits, image_size, source_files, shard_bytes, quality)
        if folder.exists():
            folder.rename(replaced)
        unfinished.rename(folder)
        _flush(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    return manifest


def fit(image: Image.Image, size: int) -> np.ndarray:
    """RGB picture ``(size, size, 3)``: upright, shorter side scaled to ``size`` (antialiased bicubic), centre kept."""
    image = ImageOps.exif_transpose(image)
    if image.size == (size, size):
        return np.asarray(image.convert("RGB"))
    return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))


def fingerprint(raw: Path) -> str:
    """SHA-256 of the names and sizes of all files below a folder: cheap, and different for other raw files."""
    files = sorted((path.relative_to(raw).as_posix(), path.stat().st_size) for path in raw.rglob("*") if path.is_file())
    return hashlib.sha256(repr(files).encode()).hexdigest()


def _write(
    folder: Path,
    dataset: str,
    classes: Sequence[str],
    recipe: dict[str, Any],
    splits: dict[str, Samples],
    image_size: int,
    source_files: str,
    shard_bytes: int,
    jpeg_quality: int | None,
) -> Manifest:
    statistics = _Statistics(image_size)
    source = hashlib.sha256()
    shards: dict[str, list[Shard]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ThreadPoolExecutor(os.cpu_count()) as threads, Progress(*columns) as progress:
        bar = progress.add_task(f"packing {dataset}", total=sum(map(len, splits.values())))

        def pictures(samples: Samples) -> Iterator[np.ndarray]:
            for image, digest in _read(samples, image_size, threads):
                source.update(digest)
                progress.advance(bar)
                yield image

        for split, samples in splits.items():
            seen = statistics if split == "train" else None
            if jpeg_quality is None:
                parts = _raw(pictures(samples), len(samples), image_size, shard_bytes, seen)
            else:
                parts = _jpeg(pictures(samples), jpeg_quality, shard_bytes, threads, seen)
            shards[split] = _write_split(folder, split, parts, samples.labels, image_size)
            source.update(samples.labels.astype("<i8").tobytes())
    write_shard(folder / "statistics.h5", mean_image=statistics.mean_image())
    manifest = Manifest(
        FORMAT_VERSION,
        dataset,
        list(classes),
        recipe,
        source_files,
        source.hexdigest(),
        *statistics.channels(),
        _seal(folder / "statistics.h5", statistics.rows),
        shards,
    )
    (folder / MANIFEST).write_text(manifest.dump(), encoding="utf-8")
    (folder / MANIFEST_SHA256).write_bytes(checksum_line(folder / MANIFEST))
    for path in (folder / MANIFEST, folder / MANIFEST_SHA256, folder):
        _flush(path)
    return manifest


def _write_split(
    folder: Path, split: str, parts: Iterator[tuple[Rows, dict[str, np.ndarray]]], labels: np.ndarray, size: int
) -> list[Shard]:
    """Write the shards of a split; their names say how many there are, which is known at the end."""
    written: list[Shard] = []
    for rows, arrays in parts:
        start = sum(shard.rows for shard in written)
        mine = labels[start : start + len(rows)].astype("<i8")
        crc32 = np.array([row_checksum(row, label) for row, label in zip(rows, mine, strict=True)], "<u4")
        path = folder / f"{split}-{len(written):05d}.h5"
        shape = (size, size, 3) if "offsets" in arrays else None
        write_shard(path, shape, **arrays, labels=mine, crc32=crc32)
        written.append(_seal(path, len(rows)))
    shards = [replace(s, file=f"{Path(s.file).stem}-of-{len(written):05d}.h5") for s in written]
    for before, after in zip(written, shards, strict=True):
        (folder / before.file).rename(folder / after.file)
    return shards


def _raw(
    pictures: Iterator[np.ndarray], count: int, size: int, shard_bytes: int, seen: "_Statistics | None"
) -> Iterator[tuple[Rows, dict[str, np.ndarray]]]:
    """Rows and datasets of each shard: pixels, in shards that differ by at most one row."""
    shards = math.ceil(count / max(1, shard_bytes // (size * size * 3)))
    for part in np.array_split(np.arange(count), shards):
        images = np.empty((len(part), size, size, 3), np.uint8)
        for row, image in enumerate(islice(pictures, len(part))):
            images[row] = image
        if seen:
            seen.add(images)
        yield images, {"images": images}


def _jpeg(
    pictures: Iterator[np.ndarray],
    quality: int,
    shard_bytes: int,
    threads: ThreadPoolExecutor,
    seen: "_Statistics | None",
) -> Iterator[tuple[Rows, dict[str, np.ndarray]]]:
    """Rows and datasets of each shard: JPEG bytes, in shards as full as they may be."""
    rows: list[np.ndarray] = []
    taken = 0
    while window := list(islice(pictures, 256)):
        encoded = list(threads.map(partial(encode, quality=quality), window))
        if seen:
            seen.add(np.stack(list(threads.map(decode, encoded))))
        for data in encoded:
            if rows and taken + len(data) > shard_bytes:
                yield rows, _joined(rows)
                rows, taken = [], 0
            rows.append(data)
            taken += len(data)
    yield rows, _joined(rows)


def _joined(rows: Rows) -> dict[str, np.ndarray]:
    return {"images": np.concatenate(rows), "offsets": np.cumsum([0, *map(len, rows)], dtype="<i8")}


def _read(samples: Samples, size: int, threads: ThreadPoolExecutor) -> Iterator[tuple[np.ndarray, bytes]]:
    """Each picture at its stored size, and a digest of its source. Pillow decodes and resizes without the GIL."""
    if isinstance(samples.images, np.ndarray) and samples.images.shape[1:3] == (size, size):
        return ((image, hashlib.sha256(image).digest()) for image in samples.images)
    window = 64 * (os.cpu_count() or 1)  # bounds how far decoding runs ahead of writing

    def read(source: Path | np.ndarray) -> tuple[np.ndarray, bytes]:
        if isinstance(source, np.ndarray):
            return fit(Image.fromarray(source), size), hashlib.sha256(source).digest()
        try:
            with source.open("rb") as file, Image.open(file) as image:
                pixels = fit(image, size)
                file.seek(0)
                return pixels, hashlib.file_digest(file, "sha256").digest()
        except FileNotFoundError as error:
            raise ValueError(f"the picture {source} is missing; complete the raw files and run again") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = str(error).replace(str(source), "").strip()
            raise ValueError(f"the picture {source} cannot be read ({reason}); replace or remove it") from error

    return (
        result
        for start in range(0, len(samples), window)
        for result in threads.map(read, samples.images[start : start + window])
    )


class _Statistics:
    """Exact sums over the training split: integers, so that no order of addition can matter."""

    def __init__(self, image_size: int) -> None:
        self.rows = 0
        self.pixels = np.zeros((image_size, image_size, 3), np.int64)
        self.squares = [0, 0, 0]

    def add(self, images: np.ndarray) -> None:
        self.rows += len(images)
        for start in range(0, len(images), 1024):
            part = images[start : start + 1024]
            self.pixels += part.sum(axis=0, dtype=np.int64)
            for channel in range(3):
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
