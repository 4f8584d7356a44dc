"""Pictures before packing, and how they are read from files or arrays, by several threads."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.picture_files import fit, loaded

logger = logging.getLogger("litvision")

Pictures = Iterator[tuple[np.ndarray, int]]  # uint8 (H, W, C), and the label


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


class Reading:
    """Reads the pictures of a data set: a digest of their sources, and the names of those that cannot be read.

    ``files`` grows with the rows: the raw file of each, as it is called from ``raw``; empty where there is none.
    """

    def __init__(
        self,
        dataset: str,
        total: int,
        image_size: int,
        skip_broken: bool,
        windows: Windows | None,
        raw: Path | None,
    ) -> None:
        self.dataset, self.image_size, self.windows, self.raw = dataset, image_size, windows, raw
        self.files: list[str] = []
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
        named = self.raw and not isinstance(samples.images, np.ndarray)
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
            file = os.path.relpath(samples.images[row], self.raw) if named else ""
            for pixels in picture.rows:
                self.files.append(os.fsencode(file).decode("utf-8", "replace"))
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
