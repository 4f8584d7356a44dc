"""Augmentation of single pictures on the CPU: a thin adapter that keeps albumentations at arm's length."""

import os
import random
from collections.abc import Sequence
from copy import deepcopy

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for a newer version

import albumentations
import numpy as np

from datamodules.shards import ShardDataset, Sources

Transform = albumentations.BasicTransform | albumentations.BaseCompose


class AugmentedPictures:
    """Training pictures by key (see ``ShuffledKeys``), each augmented with random numbers drawn from (seed, key).

    Neither the worker nor the process that serves a sample can matter, then, and no two sightings of a picture share
    their random numbers.

    Args:
        shards: the rows to augment.
        transforms: applied in order to each picture uint8 ``(H, W, C)``.
    """

    def __init__(self, shards: ShardDataset, transforms: Sequence[Transform], seed: int) -> None:
        self.shards = shards
        # copies: a transform holds its random state, and another loader may draw from the same one meanwhile
        self.compose = albumentations.Compose(deepcopy(list(transforms)))
        self.seed = seed

    def __len__(self) -> int:
        return len(self.shards)

    def gather(self, keys: np.ndarray) -> tuple[Sources, np.ndarray]:
        """The augmented pictures of keys ``(B,)``: see ``ShardDataset.gather``."""
        sources, labels = self.shards.gather(keys)
        augmented: dict[int, np.ndarray] = {}
        for source, rows, places in sources:
            for row, place in zip(rows, places, strict=True):
                augmented[place] = self._augment(source[row].copy(), int(keys[place]))  # a map cannot be written
        if len({image.shape for image in augmented.values()}) > 1:
            raise ValueError("the transforms leave pictures of different sizes; end them with a crop or a resize")
        everyone = np.arange(len(keys))
        return [(np.stack([augmented[place] for place in everyone]), everyone, everyone)], labels

    def _augment(self, image: np.ndarray, key: int) -> np.ndarray:
        # One generator for all transforms: Compose.set_random_seed would give each of them the same stream, and tie
        # the flip to the rotation.
        generator = np.random.Generator(np.random.Philox(key=[self.seed, key]))
        self.compose.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        return self.compose(image=image)["image"]


def transformed_size(transforms: Sequence[Transform], size: int) -> int:
    """Height and width of what the transforms make of a square picture."""
    if not transforms:
        return size
    made = albumentations.Compose(list(transforms))(image=np.zeros((size, size, 3), np.uint8))["image"]
    height, width = made.shape[:2]
    if height != width:
        raise ValueError(f"the transforms make pictures of {height}x{width} pixels; they must be square")
    return height
