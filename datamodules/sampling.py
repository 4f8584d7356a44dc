"""Which rows a process reads, in which order: pure functions of seed, epoch and rank."""

from collections.abc import Iterator, Sequence

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
        blocks: how far shuffling reaches; by default over all rows.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        blocks: "Blocks | None" = None,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.blocks = blocks
        self.epoch, self.skipped = 0, 0

    def set_epoch(self, epoch: int, skipped: int = 0) -> None:
        """Choose the order of an epoch; Lightning calls it before each.

        Args:
            skipped: batches at its beginning that an interrupted run has seen already. They stay skipped if the same
                epoch is set once more, as Lightning does.
        """
        self.skipped = skipped or self.skipped * (epoch == self.epoch)
        self.epoch = epoch

    def __len__(self) -> int:
        """Samples of a whole epoch, whatever part of it is skipped."""
        return self.rows // self.batch_size * (self.batch_size // self.world_size)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = self.blocks.shuffled(rng) if self.blocks else rng.permutation(self.rows)
        whole = order[: self.rows // self.batch_size * self.batch_size]
        parts = whole.reshape(-1, self.world_size, self.batch_size // self.world_size)
        return iter((self.epoch * self.rows + parts[self.skipped :, self.rank].ravel()).tolist())


class Blocks:
    """Shuffling for a set larger than memory: blocks in random order, rows mixed within a window of a few blocks.

    At any time only one window, or the end of one and the beginning of the next, needs to be in memory. As rows are
    stored in random order, that is nearly as good as a full permutation.

    Args:
        sizes: rows of each block.
        window: blocks that are mixed.
    """

    def __init__(self, sizes: Sequence[int], window: int) -> None:
        self.sizes, self.window = np.asarray(sizes, np.int64), window

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """A permutation of all rows, int64."""
        starts = np.cumsum(self.sizes) - self.sizes
        order = rng.permutation(len(self.sizes))
        windows = [order[first : first + self.window] for first in range(0, len(order), self.window)]
        return np.concatenate(
            [
                rng.permutation(np.concatenate([starts[block] + np.arange(self.sizes[block]) for block in window]))
                for window in windows
            ]
        )


def whole_batches(rows: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """Batches that one process evaluates: dealt out in turn, each row exactly once over all processes.

    A batch holds the same rows however many processes there are, so that its logits are the same too. Processes may
    differ by one batch.
    """
    return [list(range(start, min(start + batch_size, rows))) for start in range(0, rows, batch_size)][rank::world_size]


def equal_shares(rows: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """Batches that one process evaluates where all must take as many steps: each row exactly once over all processes.

    That is so where weights are sharded, because a forward pass fetches those of the other processes. Batches hold at
    most ``batch_size`` rows, or two, and differ by one.
    """
    steps = -(-rows // (max(batch_size, 2) * world_size))
    return [part.tolist() for part in np.array_split(np.arange(rows), steps * world_size)[rank::world_size]]
