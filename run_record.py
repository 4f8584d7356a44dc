"""What a run's folder says of the run, as far as the run got."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callbacks import run_folder
from callbacks.prediction_store import PROBABILITIES, Predictions
from callbacks.provenance import SESSIONS
from callbacks.run_folder import METRICS
from callbacks.training_monitor import HISTORY, SCORES, Record, Score, best_epoch, score_of


@dataclass
class RunRecord:
    """Configuration, history, sessions, metrics and predictions of a run; empty or None what it has not written.

    ``missing`` says in sentences what that is, and why where it is known.
    """

    folder: Path
    config_text: str
    config: dict[str, Any]
    history: list[Record] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    predictions: Predictions | None = None
    missing: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, run: Path) -> "RunRecord":
        """That of a run's folder.

        Raises:
            FileNotFoundError: the folder is not a run's.
            ValueError: its configuration is damaged.
        """
        config, test = run_folder.settings_of(run), f"main.py test --run {shlex.quote(str(run))}"
        record = cls(run, run_folder.config_of(run).read_text(encoding="utf-8"), config)
        record.history = record._read(HISTORY, "no epoch was finished in this folder") or []
        record.sessions = record._read(SESSIONS, "nothing says when and where the run was trained") or []
        if record.score.tested:
            record.metrics = record._read(METRICS, f"the run is not tested; {test} does that") or {}
        try:
            record.predictions = Predictions.load(run)
        except FileNotFoundError as error:
            if record.metrics and record.classifies:  # else it is said already, or there are none
                record.missing.append(f"{error}.")
        except ValueError as error:
            record.missing.append(f"{error}.")
        if record.outdated and record.predictions:
            record.missing.append(
                f"The test is of the checkpoint of epoch {record.predictions.epoch}, and the run was trained on since, "
                f"or another checkpoint is the best; {test} tests that one."
            )
        planned = (config.get("trainer") or {}).get("max_epochs") or 0
        if 0 < record.epochs < planned:
            record.missing.append(f"Only {record.epochs} of {planned} epochs are trained.")
        return record

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    @property
    def experiment(self) -> str:
        """Of the folder above."""
        return self.folder.resolve().parent.name

    @property
    def score(self) -> Score:
        """What tells how good the run is."""
        return score_of(self.history)

    @property
    def classifies(self) -> bool:
        """Whether the run trained a classifier, which names what it sees."""
        return self.score == SCORES[0]

    @property
    def epochs(self) -> int:
        """Finished ones."""
        return int(self.history[-1]["epoch"] or 0) if self.history else 0

    @property
    def outdated(self) -> bool:
        """Whether the test was of another checkpoint than a test would take now."""
        tested = self.predictions.epoch if self.predictions else None
        if tested is None or not self.history:
            return False
        return tested != chosen_epoch(self.history, self.validates_on_test)["epoch"]

    @property
    def seconds(self) -> float:
        """Training time over all sessions."""
        return sum(session.get("seconds", 0) for session in self.sessions)

    @property
    def validates_on_test(self) -> bool:
        """Whether validation saw the test split, so that nothing was chosen by it."""
        return bool(((self.config.get("data") or {}).get("init_args") or {}).get("validate_on_test"))

    def _read(self, name: str, consequence: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            self.missing.append(f"There is no {name}: {consequence}.")
        except (OSError, ValueError) as error:
            self.missing.append(f"{name} cannot be read: {error}.")
        return None


def is_outdated(run: Path, name: str = PROBABILITIES) -> bool:
    """Whether a run's last test, or its last validation, was of other weights than it would be of now.

    Args:
        name: which of both, ``PROBABILITIES`` or ``OF_VALIDATION``.
    """
    record = RunRecord.load(run)
    if name == PROBABILITIES:
        return record.outdated
    try:
        epoch = Predictions.load(run, name).epoch
    except (FileNotFoundError, ValueError):
        return False
    return epoch is not None and bool(record.history) and epoch != record.epochs


def chosen_epoch(history: Sequence[Record], validates_on_test: bool) -> Record:
    """The epoch whose checkpoint is tested: that of the best validation accuracy, or the last where nothing chooses."""
    best = None if validates_on_test else best_epoch(history)
    return next((record for record in history if record["epoch"] == best), history[-1])
