"""Learning curves as positions on a drawing, for a page that draws them in its own colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 460, 300  # of a drawing; the margins hold the labels of the axes
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 44
FLAT = 1e-4  # of the greatest value: less between all would show the same six digits on several ticks
WIDE = 1000  # values whose greatest is so many times the least are drawn logarithmically: a loss that diverged

Points = list[tuple[float, float]]


@dataclass
class Curve:
    """Values over epochs: what they are of, the number of the run they belong to, and whether training gave them."""

    label: str
    run: int
    training: bool
    points: Points


@dataclass
class Chart:
    """Curves in the drawing's units, y downwards, and ticks of both axes: position and label."""

    title: str
    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def chart(title: str, curves: Sequence[Curve]) -> Chart:
    """Place curves, of which at least one has a point, on a drawing of ``WIDTH`` times ``HEIGHT``."""
    xs, ys = zip(*(point for curve in curves for point in curve.points), strict=True)
    epochs = MaxNLocator(8, integer=True, min_n_ticks=1).tick_values(min(xs), max(xs))
    logarithmic = min(ys) > 0 and max(ys) > WIDE * min(ys)
    if logarithmic:
        title += ", logarithmic"
        levels = [10.0**power for power in range(math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys))) + 1)]
    else:
        greatest = max(map(abs, ys))
        around = 0.1 * (greatest or 1) if max(ys) - min(ys) <= FLAT * greatest else 0
        levels = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(min(ys) - around, max(ys) + around).tolist()
    left, right = min(xs), max(max(xs), min(xs) + 1)
    scale = math.log10 if logarithmic else float
    low, high = scale(levels[0]), scale(levels[-1])

    def across(x: float) -> float:
        return round(LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (scale(y) - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    placed = [
        Curve(curve.label, curve.run, curve.training, [(across(x), down(y)) for x, y in curve.points])
        for curve in curves
        if curve.points
    ]
    x_ticks = [(across(x), f"{x:.0f}") for x in epochs if left <= x <= max(xs)]
    return Chart(title, placed, x_ticks, [(down(y), f"{y:.6g}") for y in levels])
