"""Augmentation of single pictures on the CPU: a thin adapter that keeps albumentations at arm's length."""

import os
import random
from collections.abc import Sequence

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for a newer version

import albumentations
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.shards import ShardDataset

Transform = albumentations.BasicTransform | albumentations.BaseCompose


class AugmentedDataset(Dataset):
    """Training samples by key (see ``ShuffledKeys``), each augmented with random numbers drawn from (seed, key).

    Neither the worker nor the process that serves a sample can matter, then, and no two sightings of a picture share
    their random numbers.

    Args:
        shards: the rows to augment.
        transforms: applied in order to each picture uint8 ``(H, W, C)``.
    """

    def __init__(self, shards: ShardDataset, transforms: Sequence[Transform], seed: int) -> None:
        self.shards = shards
        self.compose = albumentations.Compose(list(transforms))
        self.seed = seed

    def __len__(self) -> int:
        return len(self.shards)

    def __getitems__(self, keys: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images uint8 ``(B, H, W, C)`` and labels int64 ``(B,)``."""
        images, labels = self.shards.__getitems__([key % len(self.shards) for key in keys])
        if not self.compose.transforms:
            return images, labels
        augmented = [self._augment(image, key) for image, key in zip(images.numpy(), keys, strict=True)]
        if len({image.shape for image in augmented}) > 1:
            raise ValueError("the transforms leave pictures of different sizes; end them with a crop or a resize")
        return torch.from_numpy(np.stack(augmented)), labels

    def _augment(self, image: np.ndarray, key: int) -> np.ndarray:
        # One generator for all transforms: Compose.set_random_seed would give each of them the same stream, and tie
        # the flip to the rotation.
        generator = np.random.Generator(np.random.Philox(key=[self.seed, key]))
        self.compose.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        return self.compose(image=image)["image"]
