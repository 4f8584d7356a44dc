"""MNIST: 70 000 handwritten digits, grey and 28x28 (LeCun et al. 1998), read by torchvision."""

import gzip
import shutil
from pathlib import Path

import numpy as np
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from datamodules.base import ImageDataModule
from datamodules.download import download
from datamodules.samples import Samples


class MNIST(ImageDataModule):
    """Ten classes in 60 000 training and 10 000 test pictures, stored as RGB of three equal channels."""

    name = "mnist"
    classes = tuple("0123456789")
    official_samples = 70_000
    default_image_size = 28
    raw_folder = "MNIST"
    raw_file = "raw/t10k-labels-idx1-ubyte"  # the last of the four
    url = datasets.MNIST.mirrors[0]

    def fetch(self, folder: Path) -> None:
        """Download the four files, whose names and MD5 torchvision knows, and unpack them."""
        raw = folder / "MNIST" / "raw"
        for name, md5 in datasets.MNIST.resources:
            packed = download(self.url + name, f"md5:{md5}", raw)
            partial = packed.with_suffix(".partial")
            with gzip.open(packed) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target)
            partial.replace(packed.with_suffix(""))
            packed.unlink()

    def read(self, raw: Path) -> dict[str, Samples]:
        """The official splits.

        Raises:
            ValueError: a file is missing, or is not one of MNIST's.
        """
        return {split: _samples(raw / "raw", prefix) for split, prefix in (("train", "train"), ("test", "t10k"))}


def _samples(folder: Path, prefix: str) -> Samples:
    try:
        images = read_image_file(str(folder / f"{prefix}-images-idx3-ubyte")).numpy()
        labels = read_label_file(str(folder / f"{prefix}-labels-idx1-ubyte")).numpy()
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is missing; delete {folder} to download MNIST anew") from None
    except (AssertionError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the files {prefix}-* in {folder} are not those of MNIST ({error or 'other types'})"
        ) from error
    return Samples(np.repeat(images[..., None], 3, axis=3), labels.astype(np.int64))
