"""Windows of made pictures with objects of another data set on them, to train a classifier that finds such objects."""

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import ImageDataModule
from datamodules.cifar10 import CIFAR10
from datamodules.digits import Digits
from datamodules.pasted import scene, windows
from datamodules.samples import Samples

SCENES = {"train": 800, "val": 100, "test": 200}
MOST = 4  # objects in a scene
SIDES = (28, 110)  # of the objects in pixels
WINDOWS = {"on": 2, "beside": 4, "away": 4}  # see ``windows``
SEED = 0  # of the made pictures


class PastedObjects(ImageDataModule):
    """The classes of ``objects``, and the background, which includes parts of objects and several at once.

    A subclass names the data set. Each of its splits gives the windows of the same split here: no picture of its test
    split is ever trained on.
    """

    objects: type[ImageDataModule]
    opaque: bool  # whether its pictures are pasted as they are, or as ink
    default_image_size = 32

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the content of the packed set, with what the pictures are made by."""
        return {
            **super().recipe,
            "scenes": dict(SCENES),
            "most": MOST,
            "sides": list(SIDES),
            "windows": dict(WINDOWS),
            "seed": SEED,
        }

    def read(self, raw: Path) -> dict[str, Samples]:
        """Windows of pictures that are made anew, always the same ones.

        Raises:
            ValueError: folds are asked for, which would put windows of one picture on both sides.
        """
        if self.folds:
            raise ValueError(f"{self.name} cannot be divided into folds: windows of one made picture belong together")
        objects = self._splitting.complete(self.objects().read(raw))
        found = {}
        for number, (split, count) in enumerate(SCENES.items()):
            rng = np.random.default_rng((SEED, number))
            made = [scene(objects[split], rng, SIDES, MOST, self.opaque) for _ in range(count)]
            parts = [windows(each, rng, self.image_size, **WINDOWS) for each in made]
            labels = np.concatenate([part.labels for part in parts])
            images = np.concatenate([part.images for part in parts])
            found[split] = Samples(images, np.where(labels < 0, len(self.classes) - 1, labels))
        return found


class PastedDigits(PastedObjects):
    """Handwritten digits as ink."""

    name = "pasted_digits"
    objects, opaque = Digits, False
    classes = (*Digits.classes, "background")


class PastedCIFAR10(PastedObjects):
    """Pictures of CIFAR-10 as they are."""

    name = "pasted_cifar10"
    objects, opaque = CIFAR10, True
    classes = (*CIFAR10.classes, "background")
    raw_folder, raw_file, url, checksum = CIFAR10.raw_folder, CIFAR10.raw_file, CIFAR10.url, CIFAR10.checksum
