"""The trials of a sweep, in a file that any number of processes share.

Who works on a trial holds the lock of a file of its own, and so does the training that it starts. The system releases
the lock of whoever is killed: a trial that has begun, and whose lock is free, was interrupted, and is taken up again.
Everything that is read and then written is so under the lock of the whole sweep.
"""

import fcntl
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from callbacks.provenance import differences
from sweeps.space import Choices, Values, as_text

SQLITE, JOURNAL = "sweep.db", "sweep.journal"

Kind = Literal["grid", "random", "tpe"]


@dataclass(frozen=True)
class Claim:
    """A trial to run: its number, the values of its keys, and the open file whose lock says that someone is at it."""

    number: int
    values: dict[str, str]
    held: int


class Sweep:
    """The trials of a sweep; made where there are none, gone on with where there are.

    Args:
        folder: of the sweep.
        kind: how values are chosen: all combinations, at random, or by a tree-structured Parzen estimator (Bergstra et
            al. 2011).
        space: values by key.
        trials: how many there are to be; of a grid it follows from the values.
        maximize: whether a large metric is good.
        seed: of random values; those of a trial follow from it and the trial's number.
        settings: plain values that must be the same for trials to be compared.
        journal: keep the trials in a journal instead of SQLite.

    Raises:
        ValueError: the folder holds another sweep.
    """

    def __init__(
        self,
        folder: Path,
        kind: Kind,
        space: dict[str, Values],
        trials: int,
        maximize: bool,
        seed: int,
        settings: dict[str, Any],
        journal: bool = False,
    ) -> None:
        self.folder, self.kind, self.trials, self.seed = folder, kind, trials, seed
        self.distributions = {key: distribution(values) for key, values in space.items()}
        self.grid: list[tuple[str, ...]] = []
        if kind == "grid":
            self.grid = list(itertools.product(*(values.values for values in space.values())))
            self.trials = len(self.grid)
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        other = folder / (SQLITE if journal else JOURNAL)
        with self.alone():
            if other.exists():
                raise ValueError(f"the trials of this sweep are in {other}; choose another --name")
            self.study = optuna.create_study(
                study_name=folder.name,
                storage=storage_in(folder, journal),
                direction="maximize" if maximize else "minimize",
                load_if_exists=True,
            )
            settings = json.loads(json.dumps(settings))  # as they come back: in JSON, names are text
            begun = self.study.user_attrs.setdefault("settings", settings)
            self.study.set_user_attr("settings", begun)
        for name, was, now in differences(begun, settings):
            raise ValueError(f"{folder} is another sweep, choose another --name: its {name} is {was}, not {now}")

    def alone(self) -> FileLock:
        """The lock of the whole sweep."""
        return FileLock(self.folder / "locks/sweep")

    def claim(self) -> Claim | None:
        """An interrupted trial, else a new one; None where nothing is left that nobody works on.

        Raises:
            FileExistsError: a new trial's run is there already.
        """
        with self.alone():
            known = self.study.get_trials(deepcopy=False)
            for trial in known:
                if trial.state == TrialState.RUNNING and (held := self._hold(trial.number)) is not None:
                    if self._drawn(trial):
                        return Claim(trial.number, self.values(trial), held)
                    self.study.tell(trial.number, state=TrialState.FAIL)  # killed while its values were drawn
                    os.close(held)
            if sum(map(self._drawn, known)) >= self.trials:
                return None
            if (run := self.run_of(len(known))).exists():
                raise FileExistsError(f"{run} is there, and is no trial of this sweep; choose another --name")
            trial = self._draw(len(known))
            return Claim(trial.number, self.values(trial), self._hold(trial.number))

    def finish(self, claim: Claim, value: float | None, state: TrialState = TrialState.COMPLETE) -> None:
        """Record a trial's metric, or that it has none, and let go of it."""
        with self.alone():
            self.study.tell(claim.number, value, state=state)
        self.leave(claim)

    def leave(self, claim: Claim) -> None:
        """Let go of a trial: the next one who claims a trial gets it, unless it is finished."""
        os.close(claim.held)

    def known(self) -> list[FrozenTrial]:
        """All trials that have begun."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if self._drawn(trial)]

    def values(self, trial: FrozenTrial) -> dict[str, str]:
        """Keys, and the values that a trial gives them."""
        return {key: as_text(trial.params[key]) for key in self.distributions}

    def run_of(self, number: int) -> Path:
        """The folder of a trial's run."""
        return self.folder.with_name(f"{self.folder.name}-{number:03d}")

    def _drawn(self, trial: FrozenTrial) -> bool:
        return trial.params.keys() == self.distributions.keys()

    def _draw(self, number: int) -> FrozenTrial:
        if self.kind == "grid":
            params = dict(zip(self.distributions, self.grid[number], strict=True))
            new = create_trial(state=TrialState.RUNNING, params=params, distributions=self.distributions)
            self.study.add_trial(new)
        else:
            seed = (1_000_003 * self.seed + number) % 2**32
            random, tpe = optuna.samplers.RandomSampler, optuna.samplers.TPESampler
            self.study.sampler = random(seed) if self.kind == "random" else tpe(seed=seed, constant_liar=True)
            self.study.ask(self.distributions)
        return self.study.get_trials(deepcopy=False)[number]

    def _hold(self, number: int) -> int | None:
        """An open file with the trial's lock, which ends with the last process that has it open; None if it is held."""
        descriptor = os.open(self.folder / f"locks/{number:03d}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


def storage_in(folder: Path, journal: bool) -> optuna.storages.BaseStorage:
    """The file of the trials."""
    if journal:
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    return optuna.storages.RDBStorage(
        f"sqlite:///{(folder / SQLITE).resolve()}", engine_kwargs={"connect_args": {"timeout": 60}}
    )


def distribution(values: Values) -> BaseDistribution:
    """Values as Optuna names them."""
    if isinstance(values, Choices):
        return CategoricalDistribution(values.values)
    kind = IntDistribution if values.whole else FloatDistribution
    return kind(values.low, values.high, log=values.log)
