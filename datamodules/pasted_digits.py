"""Windows of made pictures with handwritten digits on them, to train a classifier that finds digits."""

from pathlib import Path

import numpy as np

from datamodules.base import ImageDataModule
from datamodules.digits import Digits
from datamodules.pack import Samples
from datamodules.pasted import scene, windows

SCENES = {"train": 800, "val": 100, "test": 200}
SIDES = (28, 110)  # of the objects in pixels
SEED = 0  # of the made pictures


class PastedDigits(ImageDataModule):
    """Eleven classes: ten digits, and the background, which includes parts of digits and several at once.

    The scans are those of ``Digits``; each of its splits gives the windows of the same split here, so no scan of the
    test split is ever trained on.
    """

    name = "pasted_digits"
    classes = (*Digits.classes, "background")
    default_image_size = 32

    def read(self, raw: Path) -> dict[str, Samples]:
        """Windows of pictures that are made anew, always the same ones."""
        scans = self._splitting.complete(Digits().read(raw))
        found = {}
        for number, (split, count) in enumerate(SCENES.items()):
            rng = np.random.default_rng((SEED, number))
            made = [scene(scans[split], rng, SIDES, most=4, opaque=False) for _ in range(count)]
            parts = [windows(each, rng, self.image_size, of_each=2, nothing=4) for each in made]
            labels = np.concatenate([part.labels for part in parts])
            images = np.concatenate([part.images for part in parts])
            found[split] = Samples(images, np.where(labels < 0, len(Digits.classes), labels))
        return found
