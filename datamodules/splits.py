"""Which samples train, validate and test: official splits, completed by stratified ones."""

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from datamodules.samples import Samples


@dataclass(frozen=True)
class Splitting:
    """How a data set's official splits are completed.

    Args:
        val_fraction: share of the training samples that validates, where no official split does.
        test_fraction: share of all samples that tests, where no official split does.
        validate_on_test: the test split validates, and an official validation split is left out.
        seed: of the splits and of the stored order of the training rows.
        folds: parts of the development samples, training and validation together, of which one validates.
        fold: which one, from 1.

    Raises:
        ValueError: these contradict each other or lie out of range.
    """

    val_fraction: float
    test_fraction: float
    validate_on_test: bool
    seed: int
    folds: int | None
    fold: int | None

    def __post_init__(self) -> None:
        """Refuse what cannot be split."""
        for name in ("val_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if (self.folds is None) != (self.fold is None):
            raise ValueError("folds and fold go together: --data.folds 5 --data.fold 2 validates on the second of five")
        if self.folds is None:
            return
        if self.folds < 2:
            raise ValueError(f"folds is {self.folds}; it must be at least 2")
        if not 1 <= self.fold <= self.folds:
            raise ValueError(f"fold is {self.fold}; it must lie between 1 and {self.folds}, the number of folds")
        if self.validate_on_test:
            raise ValueError("folds validate on one of them, validate_on_test on the test split; leave out one of both")

    def complete(self, official: dict[str, Samples]) -> dict[str, Samples]:
        """``train``, in a shuffled stored order, ``val`` and ``test``, of ``train`` and whichever others are official.

        Raises:
            ValueError: a class has too few samples.
        """
        splits = dict(official)
        if "test" not in splits:
            splits["train"], splits["test"] = self._divide(splits["train"], self.test_fraction)
        if self.validate_on_test:
            splits["val"] = splits["test"]
        elif self.folds:
            both = splits["train"].followed_by(splits["val"]) if "val" in splits else splits["train"]
            splits["train"], splits["val"] = self._fold(both)
        elif "val" not in splits:
            splits["train"], splits["val"] = self._divide(splits["train"], self.val_fraction)
        order = np.random.default_rng(self.seed).permutation(len(splits["train"]))
        return {"train": splits["train"].take(order), "val": splits["val"], "test": splits["test"]}

    def _divide(self, samples: Samples, fraction: float) -> tuple[Samples, Samples]:
        """Two stratified parts, the second with the given share."""
        try:
            kept, taken = train_test_split(
                np.arange(len(samples)), test_size=fraction, stratify=samples.labels, random_state=self.seed
            )
        except ValueError as error:
            raise ValueError(f"a share of {fraction} cannot be taken of each class: {error}") from error
        return samples.take(kept), samples.take(np.sort(taken))

    def _fold(self, samples: Samples) -> tuple[Samples, Samples]:
        """The other folds, and the chosen one; both in the order of the samples."""
        smallest = np.unique(samples.labels, return_counts=True)[1].min()
        if smallest < self.folds:
            raise ValueError(
                f"the smallest class has {smallest} samples to train and validate, too few for {self.folds} folds; "
                "take fewer"
            )
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=self.seed)
        others, chosen = list(folds.split(samples.labels, samples.labels))[self.fold - 1]
        return samples.take(others), samples.take(chosen)
