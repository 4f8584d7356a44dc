"""Oxford Flowers-17: 1 360 photographs, 80 of each of 17 flowers (Nilsback & Zisserman 2006)."""

from pathlib import Path

import numpy as np

from datamodules.base import ImageDataModule
from datamodules.samples import Samples


class Flowers17(ImageDataModule):
    """Seventeen classes; without an official test split as the published runs here used it."""

    name = "flowers17"
    classes = (
        *("daffodil", "snowdrop", "lily of the valley", "bluebell", "crocus", "iris", "tigerlily", "tulip"),
        *("fritillary", "sunflower", "daisy", "coltsfoot", "dandelion", "cowslip", "buttercup", "windflower", "pansy"),
    )
    official_samples = 1_360
    default_image_size = 64
    raw_folder = "17flowers"
    raw_file = "jpg"
    url = "https://www.robots.ox.ac.uk/~vgg/data/flowers/17/17flowers.tgz"
    checksum = "md5:b59a65d8d1a99cd66944d474e1289eab"

    def read(self, raw: Path) -> dict[str, Samples]:
        """Pictures are numbered from 1 in the order of their classes, 80 a class."""
        numbers = np.arange(1, 1361)
        return {"train": Samples([raw / "jpg" / f"image_{n:04d}.jpg" for n in numbers], (numbers - 1) // 80)}
