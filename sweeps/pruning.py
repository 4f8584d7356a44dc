"""Which trials are not worth finishing: the median rule (Golovin et al. 2017, section 3.2.2)."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from callbacks.training_monitor import HISTORY
from sweeps.results import best_in, history_of

TRIALS = 5  # finished ones, before any is stopped


def hopeless(run: Path, finished: Sequence[Path], metric: str, maximize: bool) -> bool:
    """Whether a run's best so far is worse than the median of what finished runs had reached after as many epochs."""
    if len(finished) < TRIALS or not (run / HISTORY).exists():
        return False
    mine, *others = map(history_of, (run, *finished))
    reached = [best_in(history[: len(mine)], metric, maximize) for history in (mine, *others)]
    if None in reached:
        return False
    own, *values = (best[0] for best in reached)
    median = statistics.median(values)
    return own < median if maximize else own > median
