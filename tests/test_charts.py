"""Learning curves on a drawing."""

import pytest

from charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Curve, chart


def test_both_axes() -> None:
    drawn = chart("Loss", [Curve("a", 0, True, [(1, 0.0), (3, 10.0)]), Curve("b", 1, False, [(2, 5.0)])])
    bottom, middle = HEIGHT - BOTTOM, (HEIGHT - BOTTOM + TOP) / 2
    assert [curve.points for curve in drawn.curves] == [
        [(LEFT, bottom), (WIDTH - RIGHT, TOP)],
        [(pytest.approx((LEFT + WIDTH - RIGHT) / 2), pytest.approx(middle))],
    ]
    assert [label for _, label in drawn.x_ticks] == ["1", "2", "3"]
    assert [label for _, label in drawn.y_ticks] == ["0", "2", "4", "6", "8", "10"]
    assert (drawn.y_ticks[0][0], drawn.y_ticks[-1][0]) == (bottom, TOP)


def test_a_loss_that_diverged_leaves_the_others_to_be_seen() -> None:
    drawn = chart("Loss", [Curve("a", 0, True, [(1, 1.0), (2, 10.0), (3, 10000.0)])])
    assert drawn.title == "Loss, logarithmic"
    assert [label for _, label in drawn.y_ticks] == ["1", "10", "100", "1000", "10000"]
    heights = [y for _, y in drawn.curves[0].points]
    assert heights == [drawn.y_ticks[0][0], drawn.y_ticks[1][0], drawn.y_ticks[4][0]]
    assert heights[0] - heights[1] == pytest.approx((heights[0] - heights[2]) / 4, abs=0.1)


@pytest.mark.parametrize(
    "values",
    [(1.0, 1.0), (100.0, 100.0), (0.0, 0.0), (-2.5, -2.5), (1e-12, 1e-12), (100.0, 100.0 + 1e-9), (0.999999, 1.0)],
)
def test_a_curve_that_does_not_change(values: tuple[float, float]) -> None:
    drawn = chart("Top-1", [Curve("a", 0, False, list(enumerate(values)))])
    labels = [label for _, label in drawn.y_ticks]
    assert len(labels) == len(set(labels)) > 1
    assert [float(label) for label in labels] == sorted(map(float, labels))
    assert float(labels[0]) < values[0] < float(labels[-1])
    assert all(TOP < y < HEIGHT - BOTTOM for _, y in drawn.curves[0].points)


def test_a_single_value_and_a_curve_without_any() -> None:
    drawn = chart("Loss", [Curve("a", 0, True, [(4, 2.5)]), Curve("b", 0, False, [])])
    assert [curve.label for curve in drawn.curves] == ["a"]
    x, y = drawn.curves[0].points[0]
    assert LEFT <= x <= WIDTH - RIGHT
    assert TOP <= y <= HEIGHT - BOTTOM
    assert drawn.x_ticks == [(x, "4")]
