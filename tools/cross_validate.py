"""Stratified k-fold cross-validation: every training and validation picture is predicted by a network without it.

python tools/cross_validate.py --config EXPERIMENT.yaml [--folds 5] [--name NAME] [flags of main.py]

Each fold trains on the others and is predicted by its last epoch: the best one would be chosen by the fold itself, and
be too good. The test split stays apart. The deviation and Student's interval are those over folds; as their training
pictures overlap, the interval is a little too narrow (Bengio & Grandvalet 2004).

Runs are called fold1of5, fold2of5, ...; the figures go to runs/EXPERIMENT/folds5/cross_validation.json, the out-of-fold
probabilities, fold after fold, to report/val_probabilities.h5 beside them. Each fold is packed as a set of its own
under data/: five folds take five times the space of the set. An interrupted command goes on where it stopped when it
is given again.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.prediction_store import OF_VALIDATION, Predictions
from callbacks.whole_file import write_json
from confidence import Metrics, spreads, table
from datamodules.manifest import Manifest
from fit_and_test import finished_run, refuse
from run_record import RunRecord
from terminal import at_least, command_line, plainly, screen


def out_of_fold(runs: Sequence[Path]) -> Predictions:
    """The predictions of all folds, one fold after the other.

    Raises:
        ValueError: a fold was not predicted whole, or the folds are not parts of the same samples.
    """
    parts = [Predictions.load(run, OF_VALIDATION) for run in runs]
    tests, samples = set(), set()
    for run, part in zip(runs, parts, strict=True):
        splits = Manifest.load(Path(RunRecord.load(run).config["data"]["init_args"]["root"], part.packed_set)).splits
        rows = {split: sum(shard.rows for shard in shards) for split, shards in splits.items()}
        if len(part.rows) < rows["val"]:
            raise ValueError(f"{run} has predicted {len(part.rows)} of {rows['val']} samples of its fold, not all")
        samples.add(rows["train"] + rows["val"])
        tests.add(tuple(shard.sha256 for shard in splits["test"]))
    if len(tests) > 1 or samples != {sum(len(part.rows) for part in parts)}:
        raise ValueError(f"{runs[0]} and the other folds are of different pictures; train them under another --name")
    return Predictions(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("probabilities", "rows", "labels")),
        parts[0].names,
        hashlib.sha256("".join(part.split for part in parts).encode()).hexdigest(),
        " ".join(part.packed_set for part in parts),
        folds=np.repeat(np.arange(1, len(parts) + 1), [len(part.rows) for part in parts]),
    )


def metrics_of(run: Path) -> Metrics:
    """The accuracy of the fold's predictions, and the last epoch's validation, if that epoch had one."""
    validated = {name: value for name, value in RunRecord.load(run).history[-1].items() if name.startswith("val/")}
    return validated | {"val/top1": float(Predictions.load(run, OF_VALIDATION).right().mean())}


def main() -> None:
    """Train the folds; print and write what they reach."""
    parser = command_line(__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="EXPERIMENT.yaml")
    parser.add_argument("--folds", type=at_least(2), default=5)
    parser.add_argument("--name", help="of the runs; the fold, or `folds5`, is appended")
    arguments, flags = parser.parse_known_args()
    prefix, folds = f"{arguments.name}-" if arguments.name else "", arguments.folds
    with plainly():
        refuse(flags, "--data.folds", "--data.fold")
        runs = []
        for fold in range(1, folds + 1):
            given = ["--data.folds", str(folds), "--data.fold", str(fold), *flags]
            runs.append(finished_run(arguments.config, f"{prefix}fold{fold}of{folds}", given, "validate"))
        predictions = out_of_fold(runs)
        metrics = {run.name: metrics_of(run) for run in runs}
        found = spreads(metrics)
        folder = runs[0].with_name(f"{prefix}folds{folds}")
        predictions.save(folder / OF_VALIDATION)
        accuracy = float(predictions.right().mean())
        figures = {
            "samples": len(predictions.rows),
            "out_of_fold_top1": accuracy,
            "runs": metrics,
            "metrics": {name: asdict(spread) for name, spread in found.items()},
        }
        write_json(figures, folder / "cross_validation.json")
        title = f"{folds}-fold cross-validation of {arguments.config.stem}"
        screen().print(table(title, metrics, found))
        print(f"{100 * accuracy:.2f} % of all {len(predictions.rows)} samples are named correctly out of fold")
        print(f"figures: {folder / 'cross_validation.json'}")


if __name__ == "__main__":
    main()
