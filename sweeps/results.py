"""What came of a sweep: a table, a CSV and a JSON file sorted by the metric, and a picture of it against each key."""

import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from callbacks.training_monitor import HISTORY, Record
from callbacks.whole_file import whole_file, write_json
from sweeps.space import Choices, Values, number, short_names

POINT, BEST, FAILED = "#4477aa", "#ee6677", "#888888"
CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
MANY = 40  # trials whose points are drawn small
COLUMNS = 3


@dataclass(frozen=True)
class Result:
    """A trial: its run, state, metric and the epoch that reached it, values of the keys, and why it has failed."""

    trial: int
    run: str
    state: str
    value: float | None
    epoch: int | None
    values: dict[str, str]
    note: str = ""


def best_of(run: Path, metric: str, maximize: bool) -> tuple[float, int] | None:
    """The best value in a run's history, and its first epoch; None where it never was finite.

    Raises:
        ValueError: the history has no such metric.
    """
    known = metrics_of(run)
    if metric not in known:
        raise ValueError(
            f"the history of {run} has no {metric}, but {', '.join(sorted(known)) or 'no validation'}; begin another "
            "sweep with --metric and --name"
        )
    return best_in(history_of(run), metric, maximize)


def metrics_of(run: Path) -> set[str]:
    """Names of the metrics of validation in a run's history: none before the first validation."""
    return {name for record in history_of(run) for name in record if name.startswith("val/")}


def history_of(run: Path) -> list[Record]:
    """What a run has reached, epoch by epoch."""
    return json.loads((run / HISTORY).read_text(encoding="utf-8"))


def best_in(history: Sequence[Record], metric: str, maximize: bool) -> tuple[float, int] | None:
    """The best value of a metric in some epochs, and the first of them; None where it never was finite."""
    found = [(record[metric], int(record["epoch"])) for record in history if record.get(metric) is not None]
    return max(found, key=lambda each: each[0] if maximize else -each[0], default=None)


def reason_in(run: Path) -> str:
    """Why a run has failed: the last line of its log."""
    try:
        lines = (run / "log.txt").read_text(encoding="utf-8").strip().splitlines()
    except FileNotFoundError:
        return "it did not begin; its message is above"
    return lines[-1].partition("Error: ")[2] or lines[-1]


def in_order(results: list[Result], maximize: bool) -> list[Result]:
    """The best first; then those without a metric."""
    sign = -1 if maximize else 1
    return sorted(results, key=lambda each: (each.value is None, sign * (each.value or 0), each.trial))


def table_of(results: list[Result], metric: str, keys: list[str], title: str) -> Table:
    """A line for each trial."""
    table = Table("trial", metric, "epoch", *short_names(keys), "state", title=title)
    for each in results:
        value = "" if each.value is None else f"{each.value:.4f}"
        state = f"{each.state}: {each.note.partition(';')[0]}" if each.note else each.state
        values = (brief(each.values[key]) for key in keys)
        table.add_row(str(each.trial), value, str(each.epoch or ""), *values, state)
    return table


def brief(text: str) -> str:
    """A number with four digits, any other text as it is."""
    value = number(text)
    return text if value is None else f"{value:.4g}"


def write(results: list[Result], metric: str, keys: list[str], folder: Path) -> None:
    """``results.json`` and ``results.csv``."""
    write_json([asdict(each) for each in results], folder / "results.json")
    with whole_file(folder / "results.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["trial", "run", "state", metric, "epoch", *keys, "note"])
        for each in results:
            rows.writerow([each.trial, each.run, each.state, each.value, each.epoch, *each.values.values(), each.note])


def write_picture(results: list[Result], metric: str, space: dict[str, Values], folder: Path) -> None:
    """``results.png``."""
    with whole_file(folder / "results.png") as partial:
        draw(results, metric, space).savefig(partial, format="png", dpi=110)


def draw(results: list[Result], metric: str, space: dict[str, Values]) -> Figure:
    """The metric against each key; failed trials as crosses at the lower edge, the best trial marked."""
    columns = min(COLUMNS, len(space))
    lines = math.ceil(len(space) / columns)
    figure = Figure(figsize=(1 + 3.6 * columns, 0.6 + 3.0 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for place, name, (key, values) in zip(axes.flat, short_names(list(space)), space.items(), strict=False):
        draw_key(place, results, key, values)
        place.set_xlabel(name)
        place.grid(alpha=0.3)
        place.spines[["top", "right"]].set_visible(False)
    for place in axes.flat[len(space) :]:
        place.remove()
    for place in axes[:, 0]:
        place.set_ylabel(metric)
    best = next((each for each in results if each.value is not None), None)
    failed = sum(each.state == "failed" for each in results)
    told = [f"best: trial {best.trial}, {metric} {best.value:.4f}"] if best else []
    told += [f"x: {failed} failed"] if failed else []
    figure.suptitle("; ".join(told), fontsize="medium")
    return figure


def draw_key(axes: Axes, results: list[Result], key: str, values: Values) -> None:
    """The metric against one key: on a scale where its values are numbers, else side by side."""
    texts = values.values if isinstance(values, Choices) else ()
    numbers = [number(text) for text in texts]
    side_by_side = bool(texts) and (None in numbers or not all(map(math.isfinite, numbers)))
    if side_by_side:
        places = {text: place for place, text in enumerate(texts)}
        names = short_names(texts) if all(CLASS.fullmatch(text) for text in texts) else texts
        axes.set_xticks(range(len(texts)), names, rotation=30 if max(map(len, names)) > 10 else 0)
        axes.set_xlim(-0.5, len(texts) - 0.5)
    elif texts:
        if min(numbers) > 0 and max(numbers) >= 8 * min(numbers):
            axes.set_xscale("log")
        if len(texts) <= 8:
            axes.set_xticks(numbers, texts)
            axes.minorticks_off()
    elif values.log:
        axes.set_xscale("log")

    def across(result: Result) -> float:
        return places[result.values[key]] if side_by_side else float(result.values[key])

    rng = np.random.default_rng(0)  # points side by side are spread a little, so that equal ones can be counted
    measured = [each for each in results if each.value is not None]
    if measured:
        xs = np.array([across(each) for each in measured])
        if side_by_side:
            xs = xs + rng.uniform(-0.12, 0.12, len(xs))
        size, alpha = (36, 0.8) if len(measured) <= MANY else (14, 0.5)
        ys = [each.value for each in measured]
        axes.scatter(xs, ys, s=size, alpha=alpha, color=POINT, linewidths=0)
        axes.scatter(xs[:1], ys[:1], s=70, color=BEST, edgecolors="black", linewidths=0.8, zorder=3)
    failed = [across(each) for each in results if each.state == "failed"]
    if failed:
        ends = axes.get_xaxis_transform()  # y in parts of the height
        axes.plot(failed, [0.02] * len(failed), "x", color=FAILED, transform=ends)
