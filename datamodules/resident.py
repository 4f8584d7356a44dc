"""Small sets that stay on the GPU: batches are gathered there, and no picture travels while it trains."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.shards import ShardDataset

CHUNK = 4096  # rows


class RowsOnly(Dataset):
    """Batches ``(rows, rows, keys)``: int64 ``(B,)`` in place of pictures and labels."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitems__(self, keys: Sequence[int]) -> tuple[Tensor, Tensor, np.ndarray]:
        """The batch of these keys."""
        keys = np.asarray(keys, np.int64)
        rows = torch.from_numpy(keys % self.samples)
        return rows, rows, keys


def copied(pictures: ShardDataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """All pictures, uint8 ``(N, H, W, 3)``, and labels, int64 ``(N,)``, on a device.

    Raises:
        ValueError: they would take more than half of its free memory.
    """
    size = len(pictures) * math.prod(pictures.image_shape)
    if device.type == "cuda" and size > (free := torch.cuda.mem_get_info(device)[0]) / 2:
        raise ValueError(
            f"{len(pictures)} pictures take {size / 1e9:.1f} GB, the GPU has {free / 1e9:.1f} GB free; leave out "
            "--data.resident"
        )
    starts = range(0, len(pictures), CHUNK)
    chunks = [pictures.__getitems__(range(start, min(start + CHUNK, len(pictures)))) for start in starts]
    images, labels = (torch.cat([tensor.to(device) for tensor in part]) for part in zip(*chunks, strict=True))
    return images, labels
