"""Dogs vs Cats: 25 000 photographs from animal shelters (Elson et al. 2007, "Asirra"; Kaggle 2013)."""

from pathlib import Path

import numpy as np

from datamodules.base import ImageDataModule
from datamodules.samples import Samples


class DogsVsCats(ImageDataModule):
    """Two classes. A tenth validates and a tenth tests, stratified: neither copy has labelled splits of its own.

    Reads Kaggle's copy (``train/cat.0.jpg``), which needs an account there, and Microsoft's
    (``PetImages/Cat/0.jpg``), which is downloaded; a few files of the latter are broken and are left out.
    """

    name = "dogs_vs_cats"
    classes = ("cat", "dog")
    official_samples = 25_000
    default_image_size = 256
    default_test_fraction = 0.1
    default_val_fraction = 1 / 9
    raw_folder = "dogs-vs-cats"
    raw_file = ("train/cat.0.jpg", "PetImages/Cat")
    url = (
        "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip"
    )
    checksum = "sha256:b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"
    default_skip_broken = True

    def read(self, raw: Path) -> dict[str, Samples]:
        """Cats, then dogs, in the order of their numbers."""
        kaggle = (raw / "train").is_dir()
        pattern = "train/{}.*.jpg" if kaggle else "PetImages/{}/*.jpg"
        names = self.classes if kaggle else map(str.capitalize, self.classes)
        cats, dogs = (sorted(raw.glob(pattern.format(name)), key=number) for name in names)
        return {"train": Samples([*cats, *dogs], np.repeat([0, 1], [len(cats), len(dogs)]))}


def number(path: Path) -> int:
    """Of ``cat.12.jpg`` or ``12.jpg``."""
    return int(path.stem.rpartition(".")[2])
