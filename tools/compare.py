"""What differs between two tested runs: settings, accuracy and whether chance explains it, classes, single pictures.

python tools/compare.py RUN_A RUN_B [--pictures FILE.png]

The test is McNemar's, exact: of the pictures that one run gets right and the other wrong, each run would get half if
they were equally good (McNemar 1947; Dietterich 1998, section 3.1). Both must have been tested on the same pictures.
"""

import sys
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks import run_folder
from callbacks.prediction_store import Predictions
from callbacks.provenance import differences
from pictures import draw, tested_pictures
from terminal import command_line, plainly, screen

SHOWN = 24  # pictures


def both(run_a: Path, run_b: Path) -> tuple[Predictions, Predictions]:
    """Predictions of the pictures that both runs were tested on.

    Raises:
        ValueError: they were tested on different splits.
    """
    one, other = Predictions.load(run_a), Predictions.load(run_b)
    if one.split != other.split or not np.array_equal(one.rows, other.rows):
        raise ValueError(
            f"{run_a} was tested on {len(one.rows)} pictures and {run_b} on {len(other.rows)} others; runs can be "
            "compared that were tested on the same"
        )
    return one, other


def verdict(one: np.ndarray, other: np.ndarray) -> str:
    """How the accuracies differ, and how probable so great a difference is by chance."""
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    p = binomtest(only_one, only_one + only_other).pvalue if only_one + only_other else 1.0
    better = "the difference is more than chance" if p < 0.05 else "chance explains the difference"
    return (
        f"A {100 * one.mean():.2f} %, B {100 * other.mean():.2f} % of {len(one)} pictures; only A is right on "
        f"{only_one}, only B on {only_other}: p = {p:.3g}, {better}"
    )


def table_of_classes(one: np.ndarray, other: np.ndarray, predictions: Predictions) -> Table:
    """Share of each class that is named correctly, by what B gains."""
    rows = []
    for label, name in enumerate(predictions.names):
        mine = predictions.labels == label
        if mine.any():
            rows.append((other[mine].mean() - one[mine].mean(), name, one[mine].mean(), other[mine].mean(), mine.sum()))
    rows.sort(key=lambda row: -row[0])
    table = Table("class", "A %", "B %", "B - A", "pictures", title="Classes")
    for gain, name, a, b, count in rows if len(rows) <= 20 else [*rows[:5], *rows[-5:]]:
        table.add_row(name, f"{100 * a:.1f}", f"{100 * b:.1f}", f"{100 * gain:+.1f}", str(count))
    return table


def draw_flipped(run: Path, one: Predictions, other: Predictions, flipped: np.ndarray, path: Path) -> None:
    """The pictures that one run gets right and the other wrong, those first of which a run is surest."""
    sureness = np.maximum(one.probabilities.max(axis=1), other.probabilities.max(axis=1))
    chosen = flipped[np.argsort(-sureness[flipped])][:SHOWN]
    said = [[found.names[c] for c in found.probabilities[chosen].argmax(axis=1)] for found in (one, other)]
    labels = [one.names[label] for label in one.labels[chosen]]
    titles = [f"{label}\nA: {a}\nB: {b}" for label, a, b in zip(labels, *said, strict=True)]
    heading = f"{len(chosen)} of {len(flipped)} that flipped"
    draw(tested_pictures(run, one.rows[chosen], one.split)[0], titles, heading, path, columns=6)


def main() -> None:
    """Print what differs."""
    parser = command_line(__doc__)
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="folder of a tested run")
    parser.add_argument("--pictures", type=Path, metavar="FILE.png", help="draw the pictures that flipped")
    arguments = parser.parse_args()
    console = screen()
    with plainly():
        run_a, run_b = arguments.runs
        one, other = both(run_a, run_b)
        settings = Table("setting", "A", "B", title="Settings that differ")
        for name, a, b in differences(*map(run_folder.settings_of, (run_a, run_b))):
            settings.add_row(name, str(a), str(b))
        if settings.row_count:
            console.print(settings)
        a, b = one.right(), other.right()
        console.print(table_of_classes(a, b, one))
        console.print(verdict(a, b), soft_wrap=True)
        flipped = np.flatnonzero(a != b)
        if arguments.pictures and len(flipped):
            draw_flipped(run_a, one, other, flipped, arguments.pictures)
            console.print(f"{min(SHOWN, len(flipped))} of {len(flipped)} pictures that flipped: {arguments.pictures}")


if __name__ == "__main__":
    main()
