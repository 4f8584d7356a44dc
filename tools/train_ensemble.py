"""Train an experiment with several seeds, test each run, and test the mean of their probabilities.

python tools/train_ensemble.py EXPERIMENT --seeds 1 2 3 4 5 [--name NAME] [flags of main.py]

The ensemble is tested from what the members' tests have stored: no picture passes through a network again. Its figures
and probabilities go to runs/EXPERIMENT/ensemble/report. An interrupted command goes on where it stopped when it is
given again.
"""

import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.prediction_store import PROBABILITIES, Predictions
from callbacks.whole_file import write_json
from fit_and_test import experiment_file, runs_of_seeds
from terminal import command_line, plainly, screen


def averaged(runs: Sequence[Path]) -> tuple[list[Predictions], Predictions]:
    """What the tests of these runs have stored, and its mean.

    Raises:
        ValueError: they were tested on different pictures.
    """
    members = [Predictions.load(run) for run in runs]
    first = members[0]
    for run, member in zip(runs, members, strict=True):
        if member.split != first.split or not np.array_equal(member.rows, first.rows):
            raise ValueError(
                f"{run} was tested on other pictures than {runs[0]}; main.py test --run {shlex.quote(str(run))} "
                "with the same flags tests it again"
            )
    probabilities = np.mean([member.probabilities for member in members], axis=0, dtype=np.float64)
    return members, replace(first, probabilities=probabilities.astype(np.float32), epoch=None)


def main() -> None:
    """Train, test, and say what the ensemble gains."""
    parser = command_line(__doc__)
    parser.add_argument("experiment", metavar="EXPERIMENT", help="name of a file in experiments/")
    parser.add_argument("--seeds", nargs="+", type=int, required=True, metavar="SEED", help="of the members")
    parser.add_argument("--name", help="of the runs; the seed, or `ensemble`, is appended")
    arguments, flags = parser.parse_known_args()
    prefix = f"{arguments.name}-" if arguments.name else ""
    with plainly():
        runs = runs_of_seeds(experiment_file(arguments.experiment), arguments.seeds, arguments.name, flags)
        members, ensemble = averaged(runs)
        folder = runs[0].with_name(f"{prefix}ensemble")
        ensemble.save(folder / PROBABILITIES)
        accuracies = [float(member.right().mean()) for member in members]
        figures = {
            "samples": len(ensemble.rows),
            "members": {run.name: accuracy for run, accuracy in zip(runs, accuracies, strict=True)},
            "mean": statistics.mean(accuracies),
            "ensemble": float(ensemble.right().mean()),
        }
        write_json(figures, folder / "report/ensemble.json")
        table = Table("run", "test top-1 %", title=f"Ensemble of {len(runs)}: {arguments.experiment}")
        for name, accuracy in {**figures["members"], **{each: figures[each] for each in ("mean", "ensemble")}}.items():
            table.add_row(name, f"{100 * accuracy:.2f}")
        screen().print(table)
        print(f"report: {folder / 'report'}")


if __name__ == "__main__":
    main()
