"""CIFAR-10: 60 000 pictures of 32x32 pixels (Krizhevsky 2009), from the official pickled batches."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from datamodules.base import ImageDataModule
from datamodules.samples import Samples


class CIFAR10(ImageDataModule):
    """Ten classes; 50 000 training and 10 000 test pictures."""

    name = "cifar10"
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    official_samples = 60_000
    default_image_size = 32
    raw_folder = "cifar-10-batches-py"
    raw_file = "data_batch_1"
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    checksum = "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    official_files = {file: f"md5:{md5}" for file, md5 in (*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list)}

    def read(self, raw: Path) -> dict[str, Samples]:
        """The official five training batches and the test batch."""
        train = [read_batch(raw / f"data_batch_{number}") for number in range(1, 6)]
        return {
            "train": Samples(np.concatenate([b.images for b in train]), np.concatenate([b.labels for b in train])),
            "test": read_batch(raw / "test_batch"),
        }


def read_batch(path: Path) -> Samples:
    """Samples of one official batch file.

    Raises:
        ValueError: the file is missing, damaged, or holds anything but arrays and plain values.
    """
    try:
        batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], np.int64)
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
            raise ValueError(f"data is {pixels.dtype} {pixels.shape}, not uint8 ({len(labels)}, 3072)")
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path} is not a CIFAR-10 batch ({error}); download it again") from error
    planes = pixels.reshape(-1, 3, 32, 32)
    return Samples(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that makes numpy arrays and plain values, and refuses every other name, so it can run no code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return np._core.multiarray._reconstruct
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")
