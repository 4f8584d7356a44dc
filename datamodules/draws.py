"""Random numbers that are a function of seed and sample: no state, no order, whole batches at a time."""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio
STREAMS = 64


def uniforms(seed: int, keys: np.ndarray, count: int) -> np.ndarray:
    """Numbers evenly drawn from [0, 1), ``(B, count)`` float64: ``count`` independent ones for each key ``(B,)``.

    The numbers of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators") at the
    positions ``key * 64 + column``, beginning at a state that the seed decides.
    """
    if count > STREAMS:
        raise ValueError(f"{count} numbers a key asked of {STREAMS}")
    start = _mix(np.array([seed % 2**64], np.uint64) + GOLDEN)
    positions = keys.astype(np.uint64)[:, None] * np.uint64(STREAMS) + np.arange(1, count + 1, dtype=np.uint64)
    return (_mix(start + positions * GOLDEN) >> np.uint64(11)) * 2.0**-53


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
