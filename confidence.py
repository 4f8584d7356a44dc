"""Means of what several runs reach, and how far chance may have moved them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from scipy.stats import t

Metrics = Mapping[str, float | None]


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (with n - 1), and the 95 % confidence interval of the mean; None of a single value.

    The interval is Student's: mean ± t(0.975, n - 1) deviation / sqrt(n), for values that are independent and normal.
    """

    mean: float
    std: float | None
    ci95: tuple[float, float] | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """That of one value or more."""
        mean = statistics.fmean(values)
        if len(values) == 1:
            return cls(mean, None, None)
        deviation = statistics.stdev(values)
        half = float(t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
        return cls(mean, deviation, (mean - half, mean + half))


def spreads(runs: Mapping[str, Metrics]) -> dict[str, Spread]:
    """For each metric the spread over runs, given their names and metrics.

    Raises:
        ValueError: a run has no such metric, or one that is not finite.
    """
    found = {}
    for metric in next(iter(runs.values())):
        values = {run: metrics.get(metric) for run, metrics in runs.items()}
        for run, value in values.items():
            if value is None:
                raise ValueError(f"{metric} of {run} is missing or not finite, so there is no mean")
        found[metric] = Spread.of(list(values.values()))
    return found


def table(title: str, runs: Mapping[str, Metrics], found: Mapping[str, Spread]) -> Table:
    """A line for each run, then its statistics; accuracies in per cent."""
    table = Table("run", title=title)
    for metric in found:
        table.add_column(f"{metric} %" if _is_share(metric) else metric, justify="right")
    for run, metrics in runs.items():
        table.add_row(run, *(_shown(metric, metrics[metric]) for metric in found))
    table.add_section()
    table.add_row("mean", *(_shown(metric, spread.mean) for metric, spread in found.items()))
    if len(runs) > 1:
        table.add_row("deviation", *(_shown(metric, spread.std) for metric, spread in found.items()))
        table.add_row("95 % interval", *(_shown(metric, *spread.ci95) for metric, spread in found.items()))
    return table


def _is_share(metric: str) -> bool:
    return metric.partition("/")[2].startswith("top")


def _shown(metric: str, *values: float) -> str:
    return " .. ".join(f"{100 * value:.2f}" if _is_share(metric) else f"{value:.4f}" for value in values)
