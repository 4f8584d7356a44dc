"""Random numbers by key: even, independent, and a function of seed and key alone."""

import numpy as np
import pytest
from scipy import stats

from datamodules.draws import STREAMS, uniforms


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
