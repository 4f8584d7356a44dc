"""A thorough look at a packed set: every byte, every row, and no trust in an earlier look."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from datamodules.jpeg import decode
from datamodules.manifest import MANIFEST, Manifest, Shard, file_finding, manifest_finding
from datamodules.shards import row_checksum

MOST_NAMED = 20


def audit(folder: Path) -> Iterator[str]:
    """All that is wrong with a set, a sentence each; nothing where it is as it was packed.

    Rows are counted from 0 within their file.

    Raises:
        FileNotFoundError: there is no such set.
    """
    if not folder.is_dir() or not any((folder / MANIFEST).exists() or f.suffix == ".h5" for f in folder.iterdir()):
        raise FileNotFoundError(f"{folder} is no packed set: it has neither {MANIFEST} nor shards")
    finding = manifest_finding(folder) if (folder / MANIFEST).exists() else f"{folder / MANIFEST} is missing"
    if finding:
        yield finding
    try:
        manifest = Manifest.load(folder)
        yield from _manifest(manifest)
        checks = _checks(folder, manifest)
    except Exception as error:  # what was edited can be of any type
        yield f"{folder / MANIFEST} cannot be used ({error}); what follows is of the shards alone"
        shards = sorted(path for path in folder.glob("*.h5") if path.name != "statistics.h5")
        checks = [partial(_rows, path, None, None, None) for path in shards]
    with ThreadPoolExecutor() as threads:
        for findings in threads.map(lambda check: list(check()), checks):
            yield from findings


def _checks(folder: Path, manifest: Manifest) -> list[Callable[[], Iterator[str]]]:
    """One for each file."""
    size, classes = manifest.recipe.get("image_size"), len(manifest.classes)
    shape = (size, size, channels_of(manifest)) if size else None
    statistics = partial(_mean_image, folder / manifest.statistics.file, manifest.channel_mean)
    names = [partial(_file, folder / each.file, each, lambda: iter(())) for each in [manifest.row_files] if each]
    return [
        *names,
        partial(_file, folder / manifest.statistics.file, manifest.statistics, statistics),
        *(
            partial(_file, path, shard, partial(_rows, path, shard.rows, classes, shape))
            for shards in manifest.splits.values()
            for shard in shards
            for path in [folder / shard.file]
        ),
    ]


def channels_of(manifest: Manifest) -> int:
    """C of the stored pictures: three, unless the recipe has another number."""
    return manifest.recipe.get("channels", 3)


def _manifest(manifest: Manifest) -> Iterator[str]:
    """What a manifest says of itself that cannot be."""
    if len(set(manifest.classes)) < len(manifest.classes):
        yield "the manifest names a class twice"
    for name, values in (("channel_mean", manifest.channel_mean), ("channel_std", manifest.channel_std)):
        if len(values) != channels_of(manifest) or not all(0 <= value <= 255 for value in values):
            yield f"the manifest's {name} is {values}, not {channels_of(manifest)} numbers from 0 to 255"
    for split in {"train", "val", "test"} - manifest.splits.keys():
        yield f"the manifest has no {split} split"
    rows = sum(shard.rows for shard in manifest.splits.get("train", []))
    if rows != manifest.statistics.rows:
        yield f"the manifest has statistics of {manifest.statistics.rows} rows, but {rows} training rows"


def _file(path: Path, packed: Shard, content: Callable[[], Iterator[str]]) -> Iterator[str]:
    """Is it the file that was packed? And what can be told of its content, whether or not it is?"""
    if finding := file_finding(path, packed):
        yield finding
    if path.is_file():
        yield from content()


def _mean_image(path: Path, channel_mean: list[float]) -> Iterator[str]:
    try:
        with h5py.File(path, "r", locking=False) as file:
            mean_image = file["mean_image"][:]
        channels = mean_image.mean(axis=(0, 1)).tolist()
    except Exception as error:  # a damaged file can raise nearly anything
        yield f"{path} cannot be read ({error})"
        return
    if not all(map(math.isclose, channels, channel_mean)):
        yield f"{path} has a mean image with the channel means {channels}, but the manifest has {channel_mean}"


def _rows(path: Path, rows: int | None, classes: int | None, expected: tuple[int, int, int] | None) -> Iterator[str]:
    """What is wrong in a shard, row by row; what is expected may be unknown."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            arrays = {name: _mapped(path, file, name) for name in ("images", "labels", "crc32")}
            if "offsets" in file:
                arrays["offsets"] = _mapped(path, file, "offsets")
                shape = tuple(file["images"].attrs["picture_shape"].tolist())
            else:
                shape = arrays["images"].shape[1:]
        if expected and shape != expected:
            yield f"{path} holds pictures of the shape {shape}, not {expected}"
        counts = {name: len(array) for name, array in arrays.items() if name != "images"}
        if "offsets" in arrays:
            counts["offsets"] -= 1
        else:
            counts["images"] = len(arrays["images"])
        if rows is not None and set(counts.values()) != {rows}:
            yield f"{path} does not hold {rows} rows ({', '.join(f'{name} of {n}' for name, n in counts.items())})"
        broken: dict[str, list[int]] = defaultdict(list)
        for row in range(min(counts.values())):
            if wrong := _row(arrays, row, shape, classes):
                broken[wrong].append(row)
    except Exception as error:  # a damaged file can raise nearly anything
        yield f"{path} cannot be read ({error})"
        return
    yield from (f"{path}: {_named(rows)} {wrong}" for wrong, rows in broken.items())


def _mapped(path: Path, file: h5py.File, name: str) -> np.ndarray:
    dataset = file[name]
    if dataset.id.get_offset() is None:
        raise ValueError(f"{name} is not contiguous")
    return np.memmap(path, dataset.dtype, "r", dataset.id.get_offset(), dataset.shape).view(np.ndarray)


def _row(arrays: dict[str, np.ndarray], row: int, shape: tuple[int, ...], classes: int | None) -> str | None:
    """What is wrong with a row."""
    images, label = arrays["images"], int(arrays["labels"][row])
    if classes is not None and not 0 <= label < classes:
        return f"has a label outside 0..{classes - 1}"
    if "offsets" in arrays:
        start, end = arrays["offsets"][row : row + 2]
        if not 0 <= start < end <= len(images) or (row == 0 and start):
            return "has offsets that do not rise within the file"
        picture = images[start:end]
    else:
        picture = images[row]
    if row_checksum(picture, label) != arrays["crc32"][row]:
        return "does not match its checksum"
    if "offsets" in arrays:
        try:
            decoded = decode(picture)
        except ValueError:
            return "cannot be decoded"
        if decoded.shape != shape:
            return f"has a picture of the shape {decoded.shape}, not {shape}"
    return None


def _named(rows: list[int]) -> str:
    """``row 3``, or ``each of the rows 3, 4, 9``."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    more = f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
    return f"each of the rows {', '.join(map(str, rows[:MOST_NAMED]))}{more}"
