"""Reading shards: whole batches across shards, in other processes, and damaged files."""

import multiprocessing
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from datamodules.shards import ShardDataset, write_shard

ROWS = (5, 3, 6)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Three shards; every pixel and the label of row r have the value r."""
    written, start = [], 0
    for number, rows in enumerate(ROWS):
        values = np.arange(start, start + rows)
        images = np.broadcast_to(values[:, None, None, None], (rows, 4, 4, 3)).astype(np.uint8)
        written.append(tmp_path / f"train-{number:05d}-of-00003.h5")
        write_shard(written[-1], images=images, labels=values.astype("<i8"))
        start += rows
    return written


@pytest.mark.parametrize("indices", [[0], [13, 0, 7, 7, 4], list(range(14)), [9, 8], []])
def test_rows_come_in_the_order_asked(paths: list[Path], indices: list[int]) -> None:
    images, labels = ShardDataset(paths).__getitems__(indices)
    assert labels.tolist() == indices
    assert images.shape == (len(indices), 4, 4, 3)
    assert (images == torch.tensor(indices, dtype=torch.uint8).view(-1, 1, 1, 1)).all()
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)


def test_one_row(paths: list[Path]) -> None:
    image, label = ShardDataset(paths)[6]
    assert image.shape == (4, 4, 3)
    assert label == 6


@pytest.mark.parametrize("index", [-1, 14])
def test_rows_out_of_range(paths: list[Path], index: int) -> None:
    with pytest.raises(IndexError, match="split with 14"):
        ShardDataset(paths).__getitems__([0, index])


def test_batches_are_copies(paths: list[Path]) -> None:
    dataset = ShardDataset(paths)
    held = [dataset.__getitems__([row, row + 1])[0] for row in range(10)]
    held[0].fill_(99)
    assert [int(images[0, 0, 0, 0]) for images in held[1:]] == list(range(1, 10))
    assert int(dataset[0][0][0, 0, 0]) == 0


def test_a_pickled_dataset_carries_no_pixels_and_no_open_file(paths: list[Path]) -> None:
    dataset = ShardDataset(paths)
    fresh = len(pickle.dumps(dataset))
    dataset.__getitems__([0, 13])
    assert len(pickle.dumps(dataset)) == fresh
    assert pickle.loads(pickle.dumps(dataset)).__getitems__([13])[1].tolist() == [13]


def whole(batch: object) -> object:
    return batch


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_worker_processes_of_every_kind(paths: list[Path], method: str) -> None:
    dataset = ShardDataset(paths)
    dataset.__getitems__([0])  # maps are open in the parent when the workers start
    batches = BatchSampler(SequentialSampler(dataset), 4, drop_last=False)
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=whole, num_workers=2, multiprocessing_context=method)
    assert torch.cat([labels for _, labels in loader]).tolist() == list(range(14))


def test_the_map_that_was_used_longest_ago_is_dropped(paths: list[Path]) -> None:
    dataset = ShardDataset(paths)
    dataset.max_maps = 2
    for row in (0, 5, 0, 8):  # of the shards 0, 1, 0 and 2
        assert dataset.__getitems__([row])[1].tolist() == [row]
    assert list(dataset._maps) == [0, 2]
    assert dataset.__getitems__(range(14))[1].tolist() == list(range(14))  # a batch may need more than are kept
    dataset.max_maps = 1
    assert dataset.__getitems__([0])[1].tolist() == [0]


@pytest.mark.parametrize("more", [b"x", b""])
def test_a_shard_that_changes_under_the_reader(paths: list[Path], more: bytes) -> None:
    dataset = ShardDataset(paths)
    paths[1].write_bytes(paths[1].read_bytes() + more)
    os.utime(paths[1], (1, 1))
    dataset.__getitems__([0])  # of another shard
    with pytest.raises(ValueError, match="changed while it was in use"):
        dataset.__getitems__([len(dataset) // 2])


def test_a_shard_that_is_cut_short_while_it_is_mapped(paths: list[Path]) -> None:
    """To read on would be the end of the process, not an exception."""
    dataset = ShardDataset(paths)
    assert dataset.__getitems__([0, 13])[1].tolist() == [0, 13]
    os.truncate(paths[2], 100)
    with pytest.raises(ValueError, match="train-00002-of-00003.h5 changed while it was in use; delete the folder"):
        dataset.__getitems__([13])
    assert dataset.__getitems__([0])[1].tolist() == [0]  # of another shard


def test_a_shard_that_is_deleted(paths: list[Path]) -> None:
    """What is mapped is still there; what is not is missed in words."""
    dataset = ShardDataset(paths)
    dataset.__getitems__([0])
    for path in paths:
        path.unlink()
    assert dataset.__getitems__([3])[1].tolist() == [3]
    with pytest.raises(ValueError, match="train-00002-of-00003.h5 was deleted while it was in use"):
        dataset.__getitems__([13])


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"text", None])
def test_what_is_no_shard_is_named(paths: list[Path], content: bytes | None) -> None:
    paths[2].write_bytes(paths[2].read_bytes()[:-500] if content is None else content)
    with pytest.raises(ValueError, match="train-00002-of-00003.h5 is not a readable shard"):
        ShardDataset(paths)


@pytest.mark.parametrize(
    ("images", "chunks"),
    [
        (np.zeros((4, 4, 4, 3), np.float32), None),
        (np.zeros((4, 4, 4), np.uint8), None),
        (np.zeros((4, 4, 4, 3), np.uint8), True),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, images: np.ndarray, chunks: bool | None) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_dataset("images", data=images, chunks=chunks)
        file.create_dataset("labels", data=np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="not uint8|not contiguous"):
        ShardDataset([tmp_path / "other.h5"])


@pytest.mark.parametrize("labels", [np.zeros(4, np.int32), np.zeros(3, np.int64), np.zeros((4, 1), np.int64)])
def test_other_labels_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    write_shard(tmp_path / "other.h5", images=np.zeros((4, 4, 4, 3), np.uint8), labels=labels)
    with pytest.raises(ValueError, match=r"labels are not int64 \(N,\)"):
        ShardDataset([tmp_path / "other.h5"])


def test_pictures_of_two_sizes_are_refused(paths: list[Path], tmp_path: Path) -> None:
    write_shard(tmp_path / "large.h5", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.zeros(2, "<i8"))
    with pytest.raises(ValueError, match="large.h5 holds pictures of"):
        ShardDataset([paths[0], tmp_path / "large.h5"])
