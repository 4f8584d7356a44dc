"""Pack pictures into HDF5 shards: once, atomically, with exact statistics of the training split."""

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.jpeg import Encoding, decode, encode
from datamodules.lock import one_at_a_time
from datamodules.picture_files import files_below, fit, loaded
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

logger = logging.getLogger("litvision")

Rows = Sequence[np.ndarray]  # of a shard, each as it is stored
Pictures = Iterator[tuple[np.ndarray, int]]  # uint8 (H, W, C), and the label


class Windows(Protocol):
    """Makes several rows of one picture, for a data set that does not store each picture as one row."""

    channels: int  # C of each row
    most: int  # rows that a picture gives at most

    def __call__(self, image: Image.Image, label: int, size: int) -> np.ndarray:
        """The rows uint8 ``(n, size, size, C)`` of a picture.

        Raises:
            ValueError: it gives none; says why.
        """
        ...


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

    def followed_by(self, other: "Samples") -> "Samples":
        """These samples and then the other ones, which are of the same kind: files, or an array."""
        arrays = isinstance(self.images, np.ndarray)
        images = np.concatenate([self.images, other.images]) if arrays else [*self.images, *other.images]
        return Samples(images, np.concatenate([self.labels, other.labels]))


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
        reading = _Reading(dataset, sum(map(len, splits.values())), image_size, skip_broken, windows)
        shards: dict[str, list[Shard]] = {}
        with reading.progress, ThreadPoolExecutor(os.cpu_count()) as threads:
            for split, samples in splits.items():
                pictures, seen = reading.pictures(samples, threads), statistics if split == "train" else None
                if encoding == "raw":
                    count = len(samples) * (windows.most if windows else 1)
                    parts = _raw(pictures, count, shape, shard_bytes, seen)
                else:
                    parts = _jpeg(pictures, jpeg_quality, shard_bytes, threads, seen)
                shards[split] = _write_split(unfinished, split, parts, shape)
                if not shards[split]:
                    raise ValueError(f"no picture of the {split} split of {dataset} can be read")
        write_shard(unfinished / "statistics.h5", mean_image=statistics.mean_image())
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
        )
        if reading.skipped:
            logger.warning("%d pictures of %s were left out, as they cannot be read", len(reading.skipped), dataset)
        _write_manifest(unfinished, manifest)
    return manifest


def fingerprint(raw: Path) -> str:
    """SHA-256 of the names and sizes of all visible files below a folder: cheap, and different for other raw files."""
    files = sorted((path.relative_to(raw).as_posix(), path.stat().st_size) for path in files_below(raw))
    return hashlib.sha256(repr(files).encode()).hexdigest()


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
    for path in (folder / MANIFEST, folder / MANIFEST_SHA256, folder):
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


class _Reading:
    """Reads the pictures of a data set: a digest of their sources, and the names of those that cannot be read."""

    def __init__(self, dataset: str, total: int, image_size: int, skip_broken: bool, windows: Windows | None) -> None:
        self.dataset, self.image_size, self.windows = dataset, image_size, windows
        self.most_skipped = max(5, total // 20) if skip_broken else 0
        self.digest = hashlib.sha256()
        self.skipped: list[str] = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns)
        self._bar = self.progress.add_task(f"packing {dataset}", total=total)

    def pictures(self, samples: Samples, threads: ThreadPoolExecutor) -> Pictures:
        """Their rows, one after the other.

        Raises:
            ValueError: a picture cannot be read, and none, or not so many, may be left out.
        """
        for row, picture in enumerate(_read(samples, self.image_size, threads, self.windows)):
            self.progress.advance(self._bar)
            if isinstance(picture, ValueError):
                if not self.most_skipped:
                    raise picture
                logger.warning("left out: %s", picture)
                self.skipped.append(Path(samples.images[row]).name)
                if len(self.skipped) > self.most_skipped:
                    raise ValueError(
                        f"{len(self.skipped)} pictures of {self.dataset} cannot be read; the last: {picture}"
                    )
                continue
            label = int(samples.labels[row])
            self.digest.update(picture.digest + label.to_bytes(8, "little"))
            for pixels in picture.rows:
                yield pixels, label


@dataclass(frozen=True)
class _Picture:
    """The rows of a picture, uint8 ``(n, S, S, C)``, and a digest of its source."""

    rows: np.ndarray
    digest: bytes


def _read(
    samples: Samples, size: int, threads: ThreadPoolExecutor, windows: Windows | None
) -> Iterator[_Picture | ValueError]:
    """Each picture, or why it cannot be read. Pillow decodes and resizes without the GIL."""
    if not windows and isinstance(samples.images, np.ndarray) and samples.images.shape[1:3] == (size, size):
        return (_Picture(image[None], hashlib.sha256(image).digest()) for image in samples.images)
    cores = os.cpu_count() or 1
    ahead = max(2 * cores, 64 * cores // (windows.most if windows else 1))  # pictures that are decoded before written

    def rows(image: Image.Image, label: int) -> np.ndarray:
        return windows(image, label, size) if windows else fit(image, size)[None]

    def read(source: Path | np.ndarray, label: int) -> _Picture | ValueError:
        if isinstance(source, np.ndarray):
            return _Picture(rows(Image.fromarray(source), label), hashlib.sha256(source).digest())
        try:
            with source.open("rb") as file:
                cut = rows(loaded(file), label)
                file.seek(0)
                return _Picture(cut, hashlib.file_digest(file, "sha256").digest())
        except FileNotFoundError:
            return ValueError(f"the picture {source} is missing; complete the raw files and run again")
        except (OSError, ValueError) as error:
            reason = str(error).replace(str(source), "").strip()
            return ValueError(
                f"the picture {source} cannot be read ({reason}); replace or remove it, or leave out all that cannot "
                "be read with --data.skip_broken true"
            )

    return (
        result
        for start in range(0, len(samples), ahead)
        for result in threads.map(read, samples.images[start : start + ahead], samples.labels[start : start + ahead])
    )


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
