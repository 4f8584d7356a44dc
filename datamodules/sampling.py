"""Which rows a process reads, in which order: pure functions of seed, epoch and rank."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class ShuffledKeys(Sampler[int]):
    """Keys of one process's training samples, shuffled anew each epoch.

    The key of row r in epoch e is ``e * rows + r``: it names one sighting of one picture, so that augmentation can
    be a function of it whatever worker or process does the work. All processes see the same global batches: with
    ``batch_size`` samples in all, process k gets the k-th of ``world_size`` equal parts of each. The last incomplete
    batch is dropped.

    Args:
        rows: rows of the training split.
        batch_size: samples in a global batch, a multiple of ``world_size``.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; Lightning calls it before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows // self.batch_size * (self.batch_size // self.world_size)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
        whole = order[: self.rows // self.batch_size * self.batch_size]
        parts = whole.reshape(-1, self.world_size, self.batch_size // self.world_size)
        return iter((self.epoch * self.rows + parts[:, self.rank].ravel()).tolist())


class EveryRowOnce(Sampler[int]):
    """Rows that one process evaluates: whole batches dealt out in turn, each row exactly once over all processes.

    A batch holds the same rows however many processes there are, so that its logits are the same too. Processes may
    differ by one batch.
    """

    def __init__(self, rows: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        batches = np.array_split(np.arange(rows), np.arange(batch_size, rows, batch_size))
        self.mine = np.concatenate([np.empty(0, np.int64), *batches[rank::world_size]]).tolist()

    def __len__(self) -> int:
        return len(self.mine)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)
