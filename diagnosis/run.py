"""A run as its folder tells of it: configuration, history, data."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.nn.modules.dropout import _DropoutNd

from callbacks import run_folder
from callbacks.training_monitor import HISTORY, Record
from datamodules import ImageDataModule
from datamodules.manifest import MANIFEST, Manifest
from diagnosis.gaps import Sign, signs
from diagnosis.remedies import Settings
from lightning_modules.saved import saved_network
from run_record import chosen_epoch
from sections import built


class Run:
    """What a run's folder tells.

    Raises:
        FileNotFoundError: it is not a run's folder.
        ValueError: a file in it is damaged.
    """

    def __init__(self, folder: Path, flags: Sequence[str]) -> None:
        self.folder = folder
        self.config = run_folder.settings_of(folder)
        self.settings = Settings.of(self.config, folder)
        self.data = built(ImageDataModule, "data", self.config["data"], flags)
        self.history: list[Record] = read(folder / HISTORY) if (folder / HISTORY).is_file() else []
        self.stopped_by_loss = self._stopped_by_loss()
        if not self.history and not self.stopped_by_loss:
            raise FileNotFoundError(f"{folder} has no {HISTORY}: it has not finished an epoch of training")

    @property
    def manifest(self) -> Manifest | None:
        """Of the packed set, if that is there by now: measuring packs it."""
        return Manifest.load(self.data.folder) if (self.data.folder / MANIFEST).is_file() else None

    @property
    def best(self) -> Record:
        """Of the epoch whose weights are tested."""
        return chosen_epoch(self.history, self.data.validate_on_test)

    @cached_property
    def hardships(self) -> list[str]:
        """What made training pictures harder to name in training than they are, as far as settings and network tell."""
        told = self.settings.hardships
        if any("dropout" in each for each in told) or not (self.folder / run_folder.BEST).is_file():
            return told
        modules = saved_network(self.folder / run_folder.BEST)[0].modules()
        return told + ["dropout"] * any(isinstance(each, _DropoutNd) and each.p > 0 for each in modules)

    @property
    def signs(self) -> list[Sign]:
        """What the curves show."""
        return ["diverges"] if self.stopped_by_loss else signs(self.history, self.classes)

    @property
    def classes(self) -> int | None:
        """How many there are, where the data set or its packed set tells."""
        named = getattr(type(self.data), "classes", None)
        return len(self.manifest.classes) if self.manifest else len(named) if isinstance(named, Sequence) else None

    def pictures(self, split: str) -> int:
        """Rows of ``train`` or ``val``: of the packed set, or without it estimated from the steps of an epoch."""
        if self.manifest:
            return sum(shard.rows for shard in self.manifest.splits[split])
        first = self.history[0]
        accumulated = self.config["trainer"].get("accumulate_grad_batches") or 1
        train = round(first["step"] / first["epoch"] * self.data.batch_size * accumulated)
        share = self.data.val_fraction
        return train if split == "train" else max(1, round(train * share / (1 - share)))

    def _stopped_by_loss(self) -> bool:
        """Whether the log ends with a loss that is no number, in an epoch that was not finished since."""
        log = self.folder / "log.txt"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        epochs = [int(number) for number in re.findall(r"the loss is (?:nan|-?inf) in epoch (\d+)", text)]
        return bool(epochs) and epochs[-1] > (self.history[-1]["epoch"] if self.history else 0)


def read(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
