"""Whole batches by key: gathered from the shards, seen through matrices, and normalised where the CPU trains."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.crops import crop, crop_normalized, normalize
from datamodules.geometry import Border, Interpolation, warp
from datamodules.loader import BufferPool
from datamodules.normalization import Normalization
from datamodules.shards import Sources, gathered


class Pictures(Protocol):
    """Stored or augmented pictures by key."""

    def __len__(self) -> int: ...

    def gather(self, keys: np.ndarray) -> tuple[Sources, np.ndarray]:
        """Where the pictures of these keys ``(B,)`` lie, and their labels ``(B,)``.

        Each source is an array uint8 ``(N, H, W, C)``, which rows of it are meant, and their places in the batch.
        """
        ...


class Batches(Dataset):
    """Batches ``(images, labels, keys)``; images uint8 ``(B, h, w, C)``, or normalised float32 ``(B, C, h, w)``.

    Args:
        pictures: the samples.
        size: height and width of the images.
        matrices: where each pixel comes from (see ``geometry.py``), for keys ``(B,)`` of pictures; None leaves them.
        border: what lies outside a picture.
        interpolation: between pixels, where a matrix is not one of whole pixels.
        normalization: makes the images float; None leaves them uint8.
        pinned: puts them into page-locked memory, from which a GPU can fetch them while it computes.
    """

    def __init__(
        self,
        pictures: Pictures,
        size: int,
        matrices: Callable[[np.ndarray], np.ndarray] | None = None,
        border: Border = "replicate",
        interpolation: Interpolation = "linear",
        normalization: Normalization | None = None,
        pinned: bool = False,
    ) -> None:
        self.pictures, self.size = pictures, size
        self.matrices, self.border, self.interpolation = matrices, border, interpolation
        self.lines = normalization.lines(size) if normalization else None
        self.pinned = pinned
        self.buffers = BufferPool()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitems__(self, keys: Sequence[int]) -> tuple[Tensor, Tensor, np.ndarray]:
        """The batch of these keys."""
        keys = np.asarray(keys, np.int64)
        sources, labels = self.pictures.gather(keys)
        batch = self._buffer(len(keys), sources[0][0].shape[3], np.uint8 if self.lines is None else np.float32)
        if self.matrices is None and self.lines is None:
            gathered(sources, batch.numpy())
        else:
            matrices = self.matrices(keys) if self.matrices else np.broadcast_to(np.eye(2, 3), (len(keys), 2, 3))
            fill = self._crop if _whole_pixels(matrices) else self._warp
            fill(sources, matrices, batch.numpy())
        images = batch if self.lines is None else batch.permute(0, 3, 1, 2)
        return images, torch.from_numpy(labels), keys

    def _crop(self, sources: Sources, matrices: np.ndarray, batch: np.ndarray) -> None:
        """Whole pixels, flipped or not, are copied without interpolation."""
        flipped = matrices[:, 0, 0] < 0
        left = matrices[:, 0, 2].astype(np.int64) - flipped * (self.size - 1)
        top = matrices[:, 1, 2].astype(np.int64)
        for source, rows, places in sources:
            where = rows, places, left[places], top[places], flipped[places], self.border
            if self.lines is None:
                crop(source, *where, batch)
            else:
                crop_normalized(source, *where, *self.lines, batch)

    def _warp(self, sources: Sources, matrices: np.ndarray, batch: np.ndarray) -> None:
        warped = batch if self.lines is None else self.buffers.take(batch.shape, np.uint8).numpy()
        for source, rows, places in sources:
            for row, place in zip(rows, places, strict=True):
                warp(source[row], matrices[place], self.border, warped[place], self.interpolation)
        if self.lines is not None:
            normalize(warped, *self.lines, batch)

    def _buffer(self, samples: int, channels: int, dtype: type) -> Tensor:
        shape = (samples, self.size, self.size, channels)
        if self.pinned:  # torch uses page-locked memory again once the GPU has fetched it
            return torch.empty(shape, dtype=torch.uint8 if dtype is np.uint8 else torch.float32, pin_memory=True)
        return self.buffers.take(shape, dtype)


def _whole_pixels(matrices: np.ndarray) -> bool:
    """Whether matrices ``(B, 2, 3)`` only shift pictures by whole pixels, and flip them."""
    turns, offsets = np.abs(matrices[:, :, :2]), matrices[:, :, 2]
    return bool((turns == np.eye(2)).all() and (offsets == np.round(offsets)).all())
