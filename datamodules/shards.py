"""HDF5 shards of a packed data set, and the dataset that reads them (docs/data_format.md has the format to the bit)."""

import math
import mmap
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.jpeg import Encoding, decode
from datamodules.manifest import remedy

Sources = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # pictures, which of their rows, and their places in a batch


def write_shard(path: Path, picture_shape: tuple[int, int, int] | None = None, **arrays: np.ndarray) -> None:
    """Write contiguous, uncompressed datasets: the layout that a memory map can read.

    Args:
        picture_shape: ``(H, W, C)``, where ``images`` are JPEG bytes.
    """
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        if picture_shape:
            file["images"].attrs["picture_shape"] = picture_shape


def gathered(sources: Sources, out: np.ndarray) -> None:
    """Fill a batch, uint8 ``(B, H, W, C)``, with pictures as they are stored."""
    for source, rows, places in sources:
        if len(sources) == 1:  # mode="clip" spares np.take the buffered copy that mode="raise" makes
            np.take(source, rows, axis=0, out=out, mode="clip")
        else:
            out[places] = source[rows]


def row_checksum(picture: np.ndarray | bytes, label: int) -> int:
    """CRC-32 of a row: of the bytes of its picture as they are stored, and then of its label."""
    return zlib.crc32(int(label).to_bytes(8, "little", signed=True), zlib.crc32(picture))


@dataclass(frozen=True)
class _Layout:
    """Where the arrays of one shard lie in its file: all that a worker process needs to map them."""

    path: Path
    bytes: int
    mtime_ns: int
    shape: tuple[int, int, int, int]
    places: dict[str, int]
    encoding: ClassVar[Encoding]
    arrays: ClassVar[tuple[str, ...]]

    @staticmethod
    def of(path: Path) -> "_Layout":
        """The layout of a file, by what it holds."""
        try:
            with h5py.File(path, "r", locking=False) as file:
                kind = _JpegLayout if "offsets" in file else _RawLayout
                shape = kind.shape_of(file)
                if file["labels"].dtype != "<i8" or file["labels"].shape != shape[:1]:
                    raise ValueError("labels are not int64 (N,)")
                places = {name: file[name].id.get_offset() for name in kind.arrays}
                if None in places.values():
                    raise ValueError("its datasets are not contiguous")
        except (OSError, KeyError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} is not a readable shard ({error}); {remedy(path.parent)}") from error
        stat = path.stat()
        return kind(path, stat.st_size, stat.st_mtime_ns, shape, places)

    def arrays_of(self, file: mmap.mmap) -> tuple[Any, np.ndarray]:
        """What ``pictures`` reads from, and the labels ``(N,)``."""
        raise NotImplementedError

    def pictures(self, images: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An array uint8 ``(n, H, W, C)``, and where in it the pictures of some rows are."""
        raise NotImplementedError

    def open(self) -> mmap.mmap:
        """The whole file as memory.

        Raises:
            ValueError: it is not what it was, or not there any more.
        """
        try:
            with self.path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if (stat.st_size, stat.st_mtime_ns) != (self.bytes, self.mtime_ns):
                    raise self._changed()
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise ValueError(f"{self.path} was deleted while it was in use; {remedy(self.path.parent)}") from error

    def check(self, file: mmap.mmap) -> None:
        """Refuse a file that was cut short since: the system kills who reads beyond its end."""
        if file.size() != self.bytes:
            raise self._changed()

    def _changed(self) -> ValueError:
        return ValueError(f"{self.path} changed while it was in use; {remedy(self.path.parent)}")

    def _array(self, file: mmap.mmap, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(file, dtype, math.prod(shape), self.places[name]).reshape(shape)


class _RawLayout(_Layout):
    """Pixels as they are."""

    encoding = "raw"
    arrays = ("images", "labels")

    @staticmethod
    def shape_of(file: h5py.File) -> tuple[int, int, int, int]:
        if file["images"].dtype != np.uint8 or file["images"].ndim != 4:
            raise ValueError("images are not uint8 (N, H, W, C)")
        return file["images"].shape

    def arrays_of(self, file: mmap.mmap) -> tuple[np.ndarray, np.ndarray]:
        return self._array(file, "images", "u1", self.shape), self._array(file, "labels", "<i8", self.shape[:1])

    def pictures(self, images: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return images, rows


class _JpegLayout(_Layout):
    """JPEG files one after the other; picture r is the bytes from offset r to offset r + 1."""

    encoding = "jpeg"
    arrays = ("images", "offsets", "labels")

    @staticmethod
    def shape_of(file: h5py.File) -> tuple[int, int, int, int]:
        images, offsets = file["images"], file["offsets"]
        if images.dtype != np.uint8 or images.ndim != 1:
            raise ValueError("images are not JPEG bytes uint8 (total,)")
        if offsets.dtype != "<i8" or offsets.ndim != 1 or len(offsets) < 1:
            raise ValueError("offsets are not int64 (N + 1,)")
        if offsets[0] != 0 or offsets[-1] != len(images) or (np.diff(offsets[:]) <= 0).any():
            raise ValueError(f"offsets do not rise from 0 to {len(images)}")
        height, width, channels = (int(length) for length in images.attrs["picture_shape"])
        return len(offsets) - 1, height, width, channels

    def arrays_of(self, file: mmap.mmap) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        offsets = self._array(file, "offsets", "<i8", (self.shape[0] + 1,))
        images = self._array(file, "images", "u1", (int(offsets[-1]),))
        return (images, offsets), self._array(file, "labels", "<i8", self.shape[:1])

    def pictures(self, images: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        data, offsets = images
        decoded = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            try:
                picture = decode(data[offsets[row] : offsets[row + 1]])
                if picture.shape != self.shape[1:]:
                    raise ValueError(f"it has the shape {picture.shape} instead of {self.shape[1:]}")
            except ValueError as error:
                raise ValueError(
                    f"row {row} of {self.path} cannot be decoded ({error}); {remedy(self.path.parent)}"
                ) from error
            decoded[place] = picture
        return decoded, np.arange(len(rows))


class ShardDataset(Dataset):
    """The rows of one split, read by whole batches from memory maps.

    Holds no open file when pickled: each process maps a shard at its first read.

    Args:
        paths: the shards in order.

    Raises:
        ValueError: a file is not a shard, or its pictures differ in size from the first one's.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._layouts = [_Layout.of(path) for path in paths]
        self._starts = np.cumsum([0] + [layout.shape[0] for layout in self._layouts])
        self.max_maps = 1024  # shards that are mapped at the same time, which bounds the memory of a process
        self._maps: OrderedDict[int, tuple[mmap.mmap, Any, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()
        self.image_shape = self._layouts[0].shape[1:]
        for layout in self._layouts:
            if layout.shape[1:] != self.image_shape:
                raise ValueError(f"{layout.path} holds pictures of {layout.shape[1:]}, not of {self.image_shape}")

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def sizes(self) -> list[int]:
        """Rows of each shard."""
        return np.diff(self._starts).tolist()

    @property
    def labels(self) -> np.ndarray:
        """Labels int64 ``(N,)`` of all rows; no picture is read."""
        return np.concatenate([self._map(shard)[1] for shard in range(len(self._layouts))])

    @property
    def encoding(self) -> Encoding:
        """How the pictures are stored."""
        return self._layouts[0].encoding

    @property
    def bytes(self) -> int:
        """Bytes of all pictures as they are stored."""
        return sum(layout.bytes for layout in self._layouts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image uint8 ``(H, W, C)`` and label int64."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images uint8 ``(B, H, W, C)`` and labels int64 ``(B,)`` of the named rows, in their order."""
        rows = np.asarray(indices, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} asked of a split with {len(self)}")
        images = np.empty((len(rows), *self.image_shape), np.uint8)
        sources, labels = self.gather(rows)
        gathered(sources, images)
        return torch.from_numpy(images), torch.from_numpy(labels)

    def gather(self, keys: np.ndarray) -> tuple[Sources, np.ndarray]:
        """Where the pictures of keys ``(B,)`` lie, not copied unless decoded; and their labels int64 ``(B,)``.

        The row of a key is its remainder by the number of rows (see ``ShuffledKeys``). Of each shard that is met: its
        images uint8 ``(N, H, W, C)``, the rows meant, and their places in the batch.
        """
        rows = keys % len(self)
        labels = np.empty(len(rows), np.int64)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        sources = []
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            images, shard_labels = self._map(int(owner))
            mine = rows[places] - self._starts[owner]
            labels[places] = shard_labels[mine]
            sources.append((*self._layouts[owner].pictures(images, mine), places))
        return sources, labels

    def _map(self, shard: int) -> tuple[Any, np.ndarray]:
        """The arrays of a shard; the map that was used longest ago is dropped for a new one too many."""
        with self._lock:
            layout = self._layouts[shard]
            if shard not in self._maps:
                file = layout.open()
                self._maps[shard] = file, *layout.arrays_of(file)
                if len(self._maps) > self.max_maps:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(shard)
            file, images, labels = self._maps[shard]
            layout.check(file)
            return images, labels

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
