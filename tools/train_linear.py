"""Logistic regression on features: C by cross-validation on the training rows, then one test.

python tools/train_linear.py FEATURES.h5 [--grid 0.1 1 10 100 1000 10000] [--standardize] [--with-val]
python tools/train_linear.py FEATURES.h5 --minibatch      for features that memory cannot hold

FEATURES.h5 is made by tools/extract_features.py. What is minimised is scikit-learn's: half the squared weights, not
those of the bias, plus C times the sum of the cross-entropies. With --minibatch, L-BFGS gets the same sum and its
gradient from batches read one after the other: the model is the same, and memory holds one batch.

Writes FEATURES.linear.npz, arrays that are read without pickle, and FEATURES.linear.json: classes, C, scores for each
C, figures, and how the features were made.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.model_selection import StratifiedKFold
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.provenance import commit
from callbacks.whole_file import whole_file, write_json
from datamodules.features import FeatureReader
from datamodules.memory import free_memory
from terminal import at_least, command_line, plainly

GRID = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
TOLERANCE = 1e-4  # of the gradient of the objective per sample and unit of C, as scikit-learn's default
COPIES = 3  # of the training rows that memory holds at once: as read, standardised, and a fold's


@dataclass(frozen=True)
class LinearModel:
    """Logits ``((x - mean) / scale) @ weights.T + bias``; where there are two classes, the first one's logit is 0.

    Args:
        weights: ``(C, D)``.
        bias: ``(C,)``.
        mean: ``(D,)``, 0 where features are not standardised.
        scale: ``(D,)``, 1 where features are not standardised.
    """

    weights: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits ``(n, C)`` of features ``(n, D)``."""
        return (features - self.mean) / self.scale @ self.weights.T + self.bias

    def save(self, path: Path) -> None:
        """Write what ``load`` reads."""
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez(file, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> "LinearModel":
        """Read what ``save`` has written; nothing in the file is run."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in ("weights", "bias", "mean", "scale")})


@dataclass(frozen=True)
class Fitted:
    """A model, and whether its optimisation has converged."""

    model: LinearModel
    converged: bool


Fit = Callable[[np.ndarray, float], Fitted]  # of rows (n,) and C


class Task:
    """Features, labels and how they are standardised and optimised.

    Args:
        reader: of the features.
        standardize: give each feature mean 0 and deviation 1 on the rows that a model is fitted to.
        max_iter: of the optimiser.
        batch_size: rows read at once.
    """

    def __init__(self, reader: FeatureReader, standardize: bool, max_iter: int, batch_size: int) -> None:
        self.reader, self.labels = reader, reader.table.labels
        self.classes = len(reader.table.label_names)
        self.standardize, self.max_iter, self.batch_size = standardize, max_iter, batch_size

    def batches(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features ``(b, D)`` and labels ``(b,)`` of rising rows, never from more than ``batch_size`` stored rows."""
        for part in np.split(rows, np.flatnonzero(np.diff(rows // self.batch_size)) + 1):
            yield self.reader.read(part), self.labels[part]

    def logits(self, model: LinearModel, rows: np.ndarray) -> np.ndarray:
        """Logits ``(n, C)`` of rows."""
        return np.concatenate([model.logits(features) for features, _ in self.batches(rows)])

    def statistics(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation float32 ``(D,)`` of rows; 0 and 1 where nothing is standardised."""
        values = self.reader.table.shape[1]
        mean, variance = np.zeros(values), np.ones(values)
        if self.standardize:
            mean = sum(features.sum(axis=0, dtype=np.float64) for features, _ in self.batches(rows)) / len(rows)
            variance = sum(np.square(features - mean).sum(axis=0) for features, _ in self.batches(rows)) / len(rows)
            variance[variance <= 1e-12 * np.square(mean)] = 1  # a constant, up to rounding
        return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)

    def expanded(self, weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A row of weights for each class, also where there are two and only one has been fitted."""
        if len(weights) == self.classes:
            return weights, bias
        return np.concatenate([0 * weights, weights]), np.concatenate([0 * bias, bias])

    def fit_streamed(self, rows: np.ndarray, c: float) -> Fitted:
        """By L-BFGS on sums over batches."""
        mean, scale = self.statistics(rows)
        outputs = 1 if self.classes == 2 else self.classes
        weights = torch.zeros(outputs, self.reader.table.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weights, bias],
            max_iter=self.max_iter,
            max_eval=2 * self.max_iter,
            history_size=10,  # each of them as large as the weights and their gradient
            tolerance_grad=TOLERANCE,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def objective() -> torch.Tensor:
            optimizer.zero_grad()
            penalty = weights.square().sum() / (2 * c * len(rows))
            penalty.backward()
            total = penalty.item()
            for features, labels in self.batches(rows):
                x = torch.from_numpy((features - mean) / scale)
                logits = (x @ weights.float().T).double() + bias
                if outputs == 1:
                    logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
                loss = F.cross_entropy(logits, torch.from_numpy(labels), reduction="sum") / len(rows)
                loss.backward()
                total += loss.item()
            return torch.tensor(total, dtype=torch.float64)

        optimizer.step(objective)
        objective()
        converged = max(weights.grad.abs().max().item(), bias.grad.abs().max().item()) <= TOLERANCE
        arrays = self.expanded(weights.detach().numpy(), bias.detach().numpy())
        return Fitted(LinearModel(*(array.astype(np.float32) for array in arrays), mean, scale), converged)

    def fit_in_memory(self, rows: np.ndarray, c: float) -> Fitted:
        """By scikit-learn."""
        mean, scale = self.statistics(rows)
        features = np.concatenate([features for features, _ in self.batches(rows)])
        if self.standardize:
            features -= mean
            features /= scale
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            found = LogisticRegression(C=c, tol=TOLERANCE, max_iter=self.max_iter).fit(features, self.labels[rows])
        converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        return Fitted(LinearModel(*self.expanded(found.coef_, found.intercept_), mean, scale), converged)


def cross_validated(task: Task, fit: Fit, rows: np.ndarray, grid: Sequence[float], folds: int) -> list[dict[str, Any]]:
    """For each C the accuracies of the folds, their mean, and whether all fits have converged."""
    parts = list(StratifiedKFold(folds).split(rows, task.labels[rows]))
    scores = []
    for c in grid:
        accuracies, converged = [], True
        for kept, held_out in parts:
            fitted = fit(rows[kept], c)
            predictions = task.logits(fitted.model, rows[held_out]).argmax(axis=1)
            accuracies.append(float(np.mean(predictions == task.labels[rows[held_out]])))
            converged &= fitted.converged
        scores.append({"C": c, "accuracies": accuracies, "mean": float(np.mean(accuracies)), "converged": converged})
        told = "" if converged else " (not converged; --max-iter allows more steps)"
        print(f"C {c:g}: {100 * scores[-1]['mean']:.2f} % in {folds}-fold cross-validation{told}")
    return scores


def figures(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """``rank1``, ``rank5`` where there are more than five classes, and the report, whole and by class."""
    order = np.argsort(-logits, axis=1, kind="stable")
    hits = order == labels[:, None]
    report = {"labels": range(len(classes)), "target_names": list(classes), "zero_division": 0}
    return {
        "samples": len(labels),
        "rank1": float(hits[:, 0].mean()),
        "rank5": float(hits[:, :5].any(axis=1).mean()) if len(classes) > 5 else None,
        "by_class": classification_report(labels, order[:, 0], output_dict=True, **report),
        "text": classification_report(labels, order[:, 0], digits=4, **report),
    }


def check(task: Task, rows: np.ndarray, folds: int, minibatch: bool) -> None:
    """Refuse what cannot be trained.

    Raises:
        ValueError: a class has fewer rows than there are folds, or memory cannot hold the features.
    """
    counts = np.bincount(task.labels[rows], minlength=task.classes)
    if counts.min() < folds:
        name = task.reader.table.label_names[int(counts.argmin())]
        raise ValueError(
            f"{name} has {counts.min()} training rows, fewer than the {folds} folds; take --folds 2 or more rows"
        )
    needed, free = COPIES * 4 * len(rows) * task.reader.table.shape[1], free_memory()
    if not minibatch and needed > free:
        raise ValueError(
            f"{len(rows)} rows of features need {needed / 1e9:.1f} GB, memory has {free / 1e9:.1f} left; "
            "take --minibatch"
        )


def train(arguments: argparse.Namespace) -> None:
    """Choose C, fit, test once, write the files."""
    reader = FeatureReader(arguments.features)
    table = reader.table
    task = Task(reader, arguments.standardize, arguments.max_iter, arguments.batch_size)
    rows = table.rows(["train", "val"] if arguments.with_val else ["train"])
    test_rows = table.rows(["test"])
    check(task, rows, arguments.folds, arguments.minibatch)
    fit: Fit = task.fit_streamed if arguments.minibatch else task.fit_in_memory
    scores = cross_validated(task, fit, rows, sorted(arguments.grid), arguments.folds)
    best = max(scores, key=lambda score: score["mean"])  # the smallest C of equals
    fitted = fit(rows, best["C"])
    found = figures(task.logits(fitted.model, test_rows), table.labels[test_rows], table.label_names)
    text = found.pop("text")
    out = arguments.out or arguments.features.with_suffix(".linear")
    arrays, description = (out.with_name(out.name + ending) for ending in (".npz", ".json"))
    fitted.model.save(arrays)
    record = {
        "classes": table.label_names,
        "C": best["C"],
        "converged": fitted.converged,
        "trained_on": ["train", "val"] if arguments.with_val else ["train"],
        "training_samples": len(rows),
        "standardize": arguments.standardize,
        "minibatch": arguments.minibatch,
        "folds": arguments.folds,
        "cross_validation": scores,
        "test": found,
        "features": {"shape": list(table.shape), "dtype": table.dtype, **table.made},
        "versions": {name: version(name) for name in ("numpy", "scikit-learn", "torch")},
        "commit": commit(Path(__file__).parent) or "unknown",
    }
    write_json(record, description)
    print(text)
    rank5 = "" if found["rank5"] is None else f", rank-5 {100 * found['rank5']:.2f} %"
    print(f"C {best['C']:g}: rank-1 {100 * found['rank1']:.2f} %{rank5} on {found['samples']} test pictures")
    if not fitted.converged:
        print(f"the optimiser stopped after {arguments.max_iter} iterations; --max-iter allows more")
    print(f"{arrays}, {description}")


def positive(text: str) -> float:
    """A number above 0."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return float(text)


def main() -> None:
    """Train and test a linear classifier on a feature file."""
    parser = command_line(__doc__)
    parser.add_argument("features", type=Path, metavar="FEATURES.h5")
    parser.add_argument("--grid", nargs="+", type=positive, default=list(GRID), metavar="C")
    parser.add_argument("--folds", type=at_least(2), default=3, help="of the cross-validation")
    parser.add_argument("--standardize", action="store_true", help="mean 0 and deviation 1 of each feature")
    parser.add_argument("--with-val", action="store_true", help="train on the validation rows as well")
    parser.add_argument("--minibatch", action="store_true", help="read batches instead of holding all features")
    parser.add_argument("--batch-size", type=at_least(1), default=1024, help="rows read at once")
    parser.add_argument("--max-iter", type=at_least(1), default=1000, help="iterations of the optimiser")
    parser.add_argument("--out", type=Path, help="name of the two files without ending; FEATURES.linear if not given")
    arguments = parser.parse_args()
    with plainly():
        train(arguments)


if __name__ == "__main__":
    main()
