"""Samplers: every row once an epoch, whatever the number of processes."""

import numpy as np
import pytest

from datamodules.sampling import Blocks, ShuffledKeys, equal_shares, whole_batches


def keys_of(rows: int, batch_size: int, world_size: int, epoch: int, seed: int = 1) -> list[list[int]]:
    samplers = [ShuffledKeys(rows, batch_size, seed, rank, world_size) for rank in range(world_size)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_global_batches_do_not_depend_on_the_number_of_processes(world_size: int) -> None:
    (alone,) = keys_of(103, 8, 1, epoch=3)
    shares = keys_of(103, 8, world_size, epoch=3)
    per_process = 8 // world_size
    for batch in range(103 // 8):
        together = [key for share in shares for key in share[batch * per_process : (batch + 1) * per_process]]
        assert together == alone[batch * 8 : (batch + 1) * 8]


def test_an_epoch_shows_no_row_twice_and_drops_less_than_a_batch() -> None:
    (keys,) = keys_of(103, 8, 1, epoch=0)
    assert len(keys) == len(set(keys)) == 96 == len(ShuffledKeys(103, 8, 1))
    assert set(keys) < set(range(103))


def test_keys_name_the_epoch_and_the_order_changes() -> None:
    (first,), (second,) = keys_of(40, 8, 1, epoch=0), keys_of(40, 8, 1, epoch=1)
    assert not set(first) & set(second)
    assert sorted(key % 40 for key in second) == list(range(40))
    assert [key % 40 for key in second] != first
    assert keys_of(40, 8, 1, epoch=1) == [second]
    assert keys_of(40, 8, 1, epoch=1, seed=2) != [second]
    assert [key % 40 for key in keys_of(40, 8, 1, epoch=0, seed=2)[0]] != [key % 40 for key in second]


@pytest.mark.parametrize(
    ("rows", "batch_size", "world_size"), [(101, 8, 1), (101, 8, 2), (101, 8, 3), (3, 1, 3), (8, 8, 1)]
)
def test_evaluation_sees_each_row_once_in_the_same_batches(rows: int, batch_size: int, world_size: int) -> None:
    shares = [whole_batches(rows, batch_size, rank, world_size) for rank in range(world_size)]
    assert sorted(row for share in shares for batch in share for row in batch) == list(range(rows))
    alone = whole_batches(rows, batch_size, 0, 1)
    assert all(len(batch) == batch_size for batch in alone[:-1])
    assert sorted(batch for share in shares for batch in share) == alone
    assert np.ptp([len(share) for share in shares]) <= 1


def test_skipped_batches_stay_skipped_until_the_next_epoch() -> None:
    keys = ShuffledKeys(40, 8, seed=1)
    keys.set_epoch(3)
    whole = list(keys)
    keys.set_epoch(3, skipped=2)
    keys.set_epoch(3)  # as Lightning does
    assert list(keys) == whole[16:]
    assert len(keys) == 40
    keys.set_epoch(4)
    assert len(list(keys)) == 40


@pytest.mark.parametrize("window", [1, 3, 100])
def test_blocks_mix_only_within_their_window(window: int) -> None:
    sizes = [10, 11, 10, 11, 10, 11, 10]
    block_of = np.repeat(np.arange(7), sizes)
    order = Blocks(sizes, window).shuffled(np.random.default_rng(0))
    assert sorted(order) == list(range(73))
    position = 0
    seen: set[int] = set()
    while position < 73:
        blocks = set()
        while len(blocks) < min(window, 7 - len(seen)) or (position < 73 and block_of[order[position]] in blocks):
            blocks.add(block_of[order[position]])
            position += 1
        assert not blocks & seen
        seen |= blocks
    assert order.tolist() != sorted(order)
    assert order.tolist() != Blocks(sizes, window).shuffled(np.random.default_rng(1)).tolist()


def test_blocks_come_in_random_order_and_so_do_rows_of_all_blocks_of_a_window() -> None:
    order = Blocks([10] * 6, window=3).shuffled(np.random.default_rng(0))
    for window in (order[:30], order[30:]):
        blocks = window // 10
        assert (np.diff(blocks) != 0).sum() > 10  # two, if one block came after the other
        for block in set(blocks.tolist()):
            rows = window[blocks == block].tolist()
            assert rows != sorted(rows)
    alone = Blocks([10] * 6, window=1).shuffled(np.random.default_rng(0)).reshape(6, 10)
    assert [block.min() // 10 for block in alone] != [0, 1, 2, 3, 4, 5]
    assert all(block.tolist() != sorted(block) for block in alone)


def test_block_shuffled_keys_show_each_row_once_in_the_order_of_seed_and_epoch() -> None:
    def rows_of(seed: int, epoch: int) -> tuple[int, ...]:
        keys = ShuffledKeys(73, 8, seed, blocks=Blocks([10, 11, 10, 11, 10, 11, 10], 2))
        keys.set_epoch(epoch)
        return tuple(key % 73 for key in keys)

    orders = [rows_of(seed, epoch) for seed in (1, 2) for epoch in (0, 1, 2)]
    assert all(len(set(rows)) == 72 for rows in orders)
    assert len(set(orders)) == 6
    assert rows_of(2, 1) == orders[4]


@pytest.mark.parametrize("rows", [4, 5, 8, 9, 101, 128, 132, 135])
@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 4), (2, 3), (33, 4), (64, 2), (64, 1)])
def test_equal_shares_have_every_row_once_and_as_many_batches(rows: int, batch_size: int, world_size: int) -> None:
    shares = [equal_shares(rows, batch_size, rank, world_size) for rank in range(world_size)]
    assert sorted(row for share in shares for batch in share for row in batch) == list(range(rows))
    whole = max(batch_size, 2) * world_size  # rows of a step of all processes
    assert {len(share) for share in shares} == {(rows + whole - 1) // whole}
    sizes = {len(batch) for share in shares for batch in share}
    assert min(sizes) > 0
    assert max(sizes) <= max(batch_size, 2)
    assert max(sizes) - min(sizes) <= 1
