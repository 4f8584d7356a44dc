"""Where a run's figures come from: command, commit, versions, hardware, time."""

import json
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.whole_file import dispensable_file

SESSIONS = "sessions.json"
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "albumentations", "numpy", "h5py")


class Provenance(Callback):
    """Writes ``sessions.json`` into the run's folder: an entry for each time that the run was started or continued.

    An entry holds ``command``, ``started`` (UTC), ``commit`` (with ``+changes`` where the tree had any; null outside a
    checkout), ``versions``, ``hardware``, ``processes``, ``precision``, ``samples`` of each split, the first and last
    epoch, and the seconds between them.

    Args:
        command: the command line.
    """

    def __init__(self, command: str) -> None:
        self.command = command

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an entry after those of epochs that a checkpoint has kept."""
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / SESSIONS
        earlier = json.loads(path.read_text(encoding="utf-8")) if trainer.current_epoch and path.exists() else []
        self._clock = time.perf_counter()
        self.sessions: list[dict[str, Any]] = [
            *earlier,
            {
                "command": self.command,
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "commit": commit(Path(__file__).parent),
                "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
                "hardware": hardware(trainer.strategy.root_device),
                "processes": trainer.world_size,
                "precision": str(trainer.precision),
                "samples": {split: len(rows) for split, rows in getattr(trainer.datamodule, "splits", {}).items()},
                "first_epoch": trainer.current_epoch + 1,
            },
        ]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the entry up to date."""
        if not trainer.is_global_zero:
            return
        seconds = round(time.perf_counter() - self._clock, 1)
        self.sessions[-1].update(last_epoch=trainer.current_epoch + 1, seconds=seconds)
        with dispensable_file(Path(trainer.default_root_dir) / SESSIONS) as partial:
            partial.write_text(json.dumps(self.sessions, indent=1) + "\n", encoding="utf-8")


def commit(folder: Path) -> str | None:
    """The commit that is checked out, marked where tracked files other than ``docs/`` differ from it."""
    try:
        git = ["git", "-C", str(folder)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(
            [*git, "diff", "--quiet", "HEAD", "--", ".", ":!docs"], capture_output=True, check=False
        ).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + "+changes" * bool(changes)


def abbreviated(commit: str | None) -> str:
    """Ten digits of a commit, and whether the tree differed from it."""
    head, plus, changes = (commit or "unknown").partition("+")
    return head[:10] + plus + changes


def hardware(device: torch.device) -> str:
    """The device that trains, and the processor's threads."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {torch.get_num_threads()} CPU threads"
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return []
