"""Threads that make batches, and buffers that are used again."""

import pickle
import threading
import time

import numpy as np
import pytest
import torch

from datamodules.loader import BatchLoader, BufferPool


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_come_in_order_however_long_each_takes(threads: int) -> None:
    def make(keys: list[int]) -> tuple[int, ...]:
        time.sleep(0.002 * (5 - keys[0] % 5))
        return tuple(keys)

    batches = [[key, key + 1] for key in range(0, 40, 2)]
    loader = BatchLoader(make, batches, threads)
    assert len(loader) == 20
    for _ in range(2):  # each epoch anew
        assert list(loader) == [tuple(keys) for keys in batches]


def test_no_more_batches_are_made_ahead_than_asked() -> None:
    made = []
    loader = iter(BatchLoader(lambda keys: made.append(keys) or (keys,), [[key] for key in range(100)]))
    next(loader)
    time.sleep(0.1)
    assert len(made) <= 4  # the one taken, two ahead, and one that took its place


def test_an_error_comes_at_its_batch_and_leaves_no_thread() -> None:
    def make(keys: list[int]) -> tuple[int, ...]:
        if keys == [3]:
            raise ValueError("row 3")
        return tuple(keys)

    before, seen = set(threading.enumerate()), []  # another test's unfinished epoch may still wait for collection
    with pytest.raises(ValueError, match="row 3"):
        seen.extend(BatchLoader(make, [[key] for key in range(10)], 2))
    loader = iter(BatchLoader(make, [[0], [1], [2]], 2))
    next(loader)
    loader.close()  # an epoch that is not finished
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("batch")]


def test_memory_is_used_again_once_nobody_holds_it() -> None:
    pool = BufferPool()
    address = pool.take((4, 3), np.float32).data_ptr()
    for _ in range(5):
        assert pool.take((4, 3), np.float32).data_ptr() == address


@pytest.mark.parametrize("hold", [lambda t: t, lambda t: t[1:2].view(-1), lambda t: t.numpy(), lambda t: t.detach()])
def test_what_somebody_holds_stays_as_it_is(hold: object) -> None:
    """The tensor, a view of it, its numpy array: each keeps the memory."""
    pool = BufferPool()
    held = []
    for number in range(6):
        tensor = pool.take((2, 8), np.float32)
        tensor.fill_(number)
        held.append(hold(tensor))
        del tensor
    for number, kept in enumerate(held):
        assert torch.all(torch.as_tensor(kept) == number)
    held.clear()
    again = [pool.take((2, 8), np.float32) for _ in range(6)]
    assert len({tensor.data_ptr() for tensor in again}) == 6


def test_shapes_and_types_are_kept_apart() -> None:
    pool = BufferPool()
    assert pool.take((2, 2), np.uint8).dtype == torch.uint8
    assert pool.take((2, 2), np.float32).dtype == torch.float32
    assert pool.take((3, 2), np.float32).shape == (3, 2)


def test_many_threads_never_share_a_buffer() -> None:
    pool, clashes = BufferPool(), []

    def work(number: int) -> None:
        for _ in range(300):
            tensor = pool.take((64,), np.float32)
            tensor.fill_(number)
            time.sleep(0)
            if not torch.all(tensor == number):
                clashes.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes


def test_a_pool_can_go_to_another_process() -> None:
    pool = pickle.loads(pickle.dumps(BufferPool()))
    assert pool.take((2,), np.uint8).shape == (2,)
