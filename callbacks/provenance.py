"""Where a run's figures come from: command, commit, versions, hardware, time."""

import json
import platform
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.whole_file import dispensable_file

SESSIONS = "sessions.json"
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "albumentations", "numpy", "h5py")


class Provenance(Callback):
    """Writes ``sessions.json`` into the run's folder: an entry for each time that the run was started or continued.

    An entry holds ``command``, ``started`` (UTC), ``commit`` (with ``+changes`` where the tree had any; null outside a
    checkout), ``versions``, ``hardware``, ``processes``, ``precision``, ``samples`` of each split, the number of
    ``classes`` (null where there are none), the settings ``changed`` since the entry before (old and new value),
    ``begun`` (the finished epochs by then, with a fraction), the first and last epoch, and the seconds between them.

    Args:
        config: the resolved configuration as YAML text.
        command: the command line.
    """

    def __init__(self, config: str, command: str) -> None:
        self.config, self.command = config, command
        self._earlier_config = config
        self.sessions: list[dict[str, Any]] = []

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """See what the run was configured with."""
        self._earlier_config = checkpoint.get("config") or self.config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an entry after those that a checkpoint has kept."""
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / SESSIONS
        earlier = json.loads(path.read_text(encoding="utf-8")) if trainer.global_step and path.exists() else []
        settings = (yaml.safe_load(config) or {} for config in (self._earlier_config, self.config))
        epochs, batches = trainer.fit_loop.epoch_progress.current, trainer.fit_loop.epoch_loop.batch_progress.current
        part = batches.processed / trainer.num_training_batches if epochs.ready > epochs.processed else 0.0
        self._clock = time.perf_counter()
        self.sessions = [
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
                "classes": len(getattr(trainer.datamodule, "classes", ())) or None,
                "changed": {name: values for name, *values in differences(*settings)},
                "begun": round(epochs.processed + part, 4),
                "first_epoch": epochs.processed + 1,
                "seconds": 0.0,
            },
        ]
        self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the entry up to date."""
        if trainer.is_global_zero:
            self.sessions[-1]["last_epoch"] = trainer.current_epoch + 1
            self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Count the time of an epoch that did not end."""
        if self.sessions and trainer.training:  # else it has not begun
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        self.sessions[-1]["seconds"] = round(time.perf_counter() - self._clock, 1)
        with dispensable_file(Path(trainer.default_root_dir) / SESSIONS) as partial:
            partial.write_text(json.dumps(self.sessions, indent=1) + "\n", encoding="utf-8")


def changes(run: Path) -> list[float]:
    """Where a run went on with other settings: finished epochs, with fractions."""
    path = run / SESSIONS
    sessions = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [session["begun"] for session in sessions if session.get("changed")]


def differences(*settings: Any, name: str = "") -> Iterator[tuple[Any, ...]]:
    """Settings that configurations do not share: name, and the value in each; None where it is missing."""
    if all(isinstance(each, dict) for each in settings):
        for key in dict.fromkeys(key for each in settings for key in each):
            values = (each.get(key) for each in settings)
            yield from differences(*values, name=f"{name}.{key}" if name else key)
    elif any(each != settings[0] for each in settings):
        yield name, *settings


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
    """The device that trains, whether a processor computes in bfloat16, and the processor's threads."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {torch.get_num_threads()} CPU threads"
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    flags = {flag for line in _cpuinfo() if line.startswith("flags") for flag in line.split()}
    kinds = [kind.upper().replace("_", "-") for kind in ("avx512_bf16", "amx_bf16") if kind in flags]
    return f"{' with '.join([name, *kinds[-1:]])}, {torch.get_num_threads()} threads"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return []
