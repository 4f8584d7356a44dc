"""What loaders are measured on: three workloads, and their pictures as arrays and as files."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datamodules.cifar10 import read_batch
from datamodules.picture_files import fit, loaded
from datamodules.samples import Samples

BATCH = 128


@dataclass(frozen=True)
class Affine:
    """Greatest rotation in degrees, shift as a fraction of the size, shear in radians, deviation of the zoom from 1."""

    rotation: float
    shift: float
    shear: float
    zoom: float


@dataclass(frozen=True)
class Workload:
    """Pictures, and what a loader does to each of them: an affine map or a random crop, then a flip at random.

    Args:
        read: gives the training pictures, from the folder with the raw files in their official layouts.
        rows: pictures that a loader goes through in an epoch; a smaller set is repeated, copy by copy.
        stored: height and width of the stored pictures in pixels.
        size: height and width of the pictures in a batch.
        suffix: format of a picture that is a file of its own.
        pad: zeros around a picture before its crop, in pixels.
    """

    name: str
    title: str
    read: Callable[[Path], Samples]
    rows: int
    stored: int
    size: int
    suffix: str
    pad: int = 0
    affine: Affine | None = None


def read_cifar10(source: Path) -> Samples:
    """The five official training batches."""
    parts = [read_batch(source / "cifar-10-batches-py" / f"data_batch_{number}") for number in range(1, 6)]
    return Samples(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def read_tiny_imagenet(source: Path) -> Samples:
    """The JPEG files of the official training split, one folder a class."""
    files = sorted((source / "tiny-imagenet-200" / "train").glob("*/images/*.JPEG"))
    classes = sorted({path.parts[-3] for path in files})
    return Samples(files, np.array([classes.index(path.parts[-3]) for path in files]))


def read_dogs_vs_cats(source: Path) -> Samples:
    """The training photographs, cat.N.jpg and dog.N.jpg."""
    files = sorted((source / "dogs-vs-cats" / "train").glob("*.jpg"))
    return Samples(files, np.array([int(path.name.startswith("dog")) for path in files]))


WORKLOADS = (
    Workload("cifar10", "CIFAR-10: 4 zeros around, random 32 crop, flip", read_cifar10, 50_000, 32, 32, ".png", pad=4),
    Workload(
        "tiny_imagenet",
        "Tiny ImageNet: 64x64, rotation, shift, shear and zoom with replicated border, flip",
        *(read_tiny_imagenet, 20_000, 64, 64, ".jpg"),
        affine=Affine(rotation=18, shift=0.2, shear=0.15, zoom=0.15),
    ),
    Workload(
        "dogs_vs_cats", "Dogs vs Cats: 256x256, random 227 crop, flip", read_dogs_vs_cats, 4_000, 256, 227, ".jpg"
    ),
)


class Pictures:
    """A workload's pictures in a folder.

    The folder holds ``images.npy``, uint8 ``(N, H, W, 3)``, ``labels.npy``, int64 ``(N,)``, and the same pictures as
    files, ``files/<label>/<row><suffix>``; beside them what loaders make of these.
    """

    def __init__(self, workload: Workload, folder: Path) -> None:
        self.workload, self.folder = workload, folder

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[type, tuple[Workload, Path]]:
        return Pictures, (self.workload, self.folder)  # without the arrays: each process maps them for itself

    @cached_property
    def images(self) -> np.ndarray:
        """The pictures, uint8 ``(N, H, W, 3)``, mapped."""
        return np.load(self.folder / "images.npy", mmap_mode="r").view(np.ndarray)

    @cached_property
    def labels(self) -> np.ndarray:
        """Int64 ``(N,)``."""
        return np.load(self.folder / "labels.npy")

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean of each channel, scale 0 .. 255."""
        return np.load(self.folder / "statistics.npy")[0]

    @cached_property
    def std(self) -> np.ndarray:
        """Deviation of each channel, scale 0 .. 255."""
        return np.load(self.folder / "statistics.npy")[1]


def make(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` make a file or folder, unless it is there; it appears whole or not at all."""
    if not path.exists():
        partial = path.with_name(f"partial-{path.name}")
        if partial.is_dir():
            shutil.rmtree(partial)
        write(partial)
        partial.rename(path)


def prepare(workload: Workload, source: Path | None, rows: int, folder: Path) -> Pictures:
    """Pictures of a workload in ``folder``, made unless they are there.

    Args:
        source: folder with the raw files in their official layouts; without it, pictures are made up.
        rows: how many; a smaller set is repeated.

    Raises:
        FileNotFoundError: ``source`` does not hold the workload's files.
    """

    def write(partial: Path) -> None:
        partial.mkdir()
        samples = workload.read(source) if source else _made_up(rows, workload.stored)
        if not len(samples):
            raise FileNotFoundError(
                f"{source} does not hold the raw files of {workload.name}; choose other --workloads"
            )
        order = np.random.default_rng(0).permutation(len(samples))[np.arange(rows) % len(samples)]
        _write(workload, samples.take(order), partial)

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{workload.name}-{rows}-{'real' if source else 'made-up'}"
    make(path, write)
    return Pictures(workload, path)


def _made_up(rows: int, size: int) -> Samples:
    """Smooth colours with some noise: as hard to decode as a photograph, about."""
    rng = np.random.default_rng(0)
    images = np.empty((rows, size, size, 3), np.uint8)
    for image in images:
        colours = rng.integers(0, 256, (6, 6, 3), np.uint8)
        noise = rng.integers(-12, 12, (size, size, 3))
        image[:] = np.clip(cv2.resize(colours, (size, size), interpolation=cv2.INTER_CUBIC) + noise, 0, 255)
    return Samples(images, np.arange(rows) % 10)


def _write(workload: Workload, samples: Samples, folder: Path) -> None:
    """Arrays, statistics and files. A file that has the stored size already is copied, others are encoded."""
    shape = (len(samples), workload.stored, workload.stored, 3)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    for label in np.unique(samples.labels):
        (folder / "files" / f"{label:03d}").mkdir(parents=True)

    def write(row: int) -> None:
        source, label = samples.images[row], samples.labels[row]
        file = folder / "files" / f"{label:03d}" / f"{row:06d}{workload.suffix}"
        image = Image.fromarray(source) if isinstance(source, np.ndarray) else loaded(source)
        images[row] = fit(image, workload.stored)
        if isinstance(source, Path) and image.size == (workload.stored, workload.stored):
            shutil.copyfile(source, file)
        else:
            Image.fromarray(images[row]).save(file, quality=95)

    with ThreadPoolExecutor() as threads:
        list(threads.map(write, range(len(samples))))
    images.flush()
    np.save(folder / "labels.npy", samples.labels.astype(np.int64))
    counts = np.zeros((3, 256))
    for start in range(0, len(images), BATCH):
        for channel in range(3):
            counts[channel] += np.bincount(images[start : start + BATCH, ..., channel].ravel(), minlength=256)
    shares, values = counts / images[..., 0].size, np.arange(256)
    mean = shares @ values
    np.save(folder / "statistics.npy", np.stack([mean, np.sqrt(shares @ values**2 - mean**2)]))
