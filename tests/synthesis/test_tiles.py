"""Tiles: every pixel counts once, none is too large, all lie on one grid."""

import numpy as np
import pytest

from synthesis.tiles import shifts, tiles


@pytest.mark.parametrize("shape", [(50, 60), (128, 500), (301, 419), (640, 129)])
@pytest.mark.parametrize("size", [128, 192])
def test_parts_cover_the_picture_once(shape: tuple[int, int], size: int) -> None:
    for shift in np.ndindex(shifts(size), shifts(size)):
        counted = np.zeros(shape, int)
        for tile in tiles(*shape, size, shift):
            counted[tile.own] += 1
            seen = np.zeros(shape, int)
            seen[tile.seen] = 1
            assert all(part.stop - part.start <= size and part.start % 32 == 0 for part in tile.seen)
            assert seen.sum() > 0
            inner = np.zeros(shape, int)
            inner[tile.seen][tile.own_within] = 1
            assert np.array_equal(inner[tile.own], np.ones_like(inner[tile.own]))
            assert inner.sum() == inner[tile.own].size == pytest.approx(tile.share * seen.sum())
        assert (counted == 1).all()


def test_around_each_part_there_is_a_margin_where_the_picture_goes_on() -> None:
    for tile in tiles(301, 419, 128, (1, 0)):
        for own, seen, length in zip(tile.own, tile.seen, (301, 419), strict=True):
            assert seen.start <= max(0, own.start - 32)
            assert seen.stop >= min(length, own.stop + 32)


def test_the_grid_moves_with_the_shift() -> None:
    edges = {shift: [tile.own[1].start for tile in tiles(100, 400, 192, (0, shift))] for shift in range(shifts(192))}
    assert edges == {0: [0, 128, 256, 384], 1: [0, 32, 160, 288], 2: [0, 64, 192, 320], 3: [0, 96, 224, 352]}
