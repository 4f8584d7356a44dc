"""Random numbers by key: even, independent, and a function of seed and key alone."""

import numpy as np
import pytest
from scipy import stats

from datamodules.draws import STREAMS, uniforms


def split_mix(state: int, count: int) -> list[int]:
    """The first numbers of 64 bits that SplitMix64 makes from a state."""
    numbers = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        numbers.append(z ^ z >> 31)
    return numbers


def test_they_are_those_of_split_mix_64() -> None:
    """So that a seed means the same in later versions; the first figures are published, of the seed 1234567."""
    assert split_mix(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for seed in (0, 1234567, 2**64 - 1):
        (start,) = split_mix(seed, 1)
        expected = np.array([number >> 11 for number in split_mix(start, 3 * STREAMS)]) / 2**53
        assert np.array_equal(uniforms(seed, np.arange(3), STREAMS).ravel(), expected)


@pytest.mark.parametrize("seed", [0, 42, 2**63 - 1])
def test_they_are_even(seed: int) -> None:
    drawn = uniforms(seed, np.arange(20_000), 8)
    assert drawn.shape == (20_000, 8)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for column in drawn.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4


def test_neighbours_in_key_column_and_seed_are_independent() -> None:
    drawn = uniforms(7, np.arange(20_001), 3)
    other = uniforms(8, np.arange(20_001), 3)
    pairs = [(drawn[:-1, 0], drawn[1:, 0]), (drawn[:, 0], drawn[:, 1]), (drawn[:, 0], other[:, 0])]
    for first, second in pairs:
        counts, _, _ = np.histogram2d(first, second, bins=10, range=[[0, 1], [0, 1]])
        assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_a_sample_has_the_same_numbers_in_any_batch_and_with_more_columns() -> None:
    keys = np.array([3, 10**12, 5])
    assert np.array_equal(uniforms(1, keys, 4)[1], uniforms(1, keys[1:2], 4)[0])
    assert np.array_equal(uniforms(1, keys, 4), uniforms(1, keys, STREAMS)[:, :4])
    assert len(np.unique(uniforms(1, np.arange(1000), STREAMS))) == 1000 * STREAMS


def test_more_numbers_than_a_key_has_are_refused() -> None:
    with pytest.raises(ValueError, match="65"):
        uniforms(1, np.arange(3), STREAMS + 1)
