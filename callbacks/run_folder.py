"""The folder that holds everything of a run, and is its only handle: it can be moved, tested and continued."""

import faulthandler
import json
import logging
import shlex
import sys
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.panels import log_config
from callbacks.prediction_store import OF_VALIDATION, PROBABILITIES, Predictions, of_all_processes
from callbacks.provenance import SESSIONS, differences
from callbacks.whole_file import whole_file

CONFIG = "config.yaml"
BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
PREVIOUS = "checkpoints/previous.ckpt"
METRICS = "report/metrics.json"  # of the last test
SNAPSHOT = "snapshot-"  # beginning of the names of checkpoints that a run does not go on from
LOCK = ".lock"
DECIDE = (  # what a report is of, besides the network
    *("data.class_path", "trainer.fast_dev_run"),
    *(f"trainer.limit_{stage}_batches" for stage in ("val", "test", "predict")),
    *(f"data.init_args.{name}" for name in ("views", "image_size", "normalization", "encoding", "jpeg_quality")),
    *(f"data.init_args.{name}" for name in ("val_fraction", "test_fraction", "split_seed", "folds", "fold")),
    *(f"data.init_args.{name}" for name in ("validate_on_test", "batch_augment.init_args.crop")),
    *(f"data.init_args.{name}" for name in ("transforms", "batch_augment")),  # one that is there or not: it may crop
    *(f"data.init_args.{name}" for name in ("upscale_factor", "windows_per_photograph")),
)
SOURCE = "data.init_args.source"  # decides, too, unless the same pictures are there
PATIENCE = 10.0  # seconds, in which the loader processes of a run that was killed end, too


class RunFolder(Callback):
    """Writes the resolved configuration and the log of a run, and gives the configuration to checkpoints and loggers.

    The folder is ``trainer.default_root_dir``; it is made only once the data are there, so that a run that finds none
    leaves nothing behind. A training that goes on writes its configuration when the first step is about to begin: one
    that cannot leaves the run as it was. While it writes there, no other can: neither one that continues the run before
    it has ended, nor one of the same name, nor one begun without a name in the same second.

    Args:
        config: the resolved configuration as YAML text.
        command: the command line, for the log.

    Raises:
        FileExistsError: another process trains in the folder, or a test would replace the report of another one.
    """

    def __init__(self, config: str, command: str) -> None:
        self.config, self.command = config, command
        self._lock: FileLock | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder, make it and begin the log."""
        # each process has taken the time of day for its name
        trainer._default_root_dir = trainer.strategy.broadcast(trainer.default_root_dir)
        self._step = 0  # of the checkpoint that this process goes on from
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if stage == "fit":
            self._lock = locked(folder)
        if not holds_run(folder):
            self._write_config(folder)
        elif stage != "fit":
            self._require_same_evaluation(folder, trainer, stage)
        log_to(folder / "log.txt")
        logging.getLogger("litvision").debug("%s", self.command)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse processes that do not begin alike; log the configuration.

        Raises:
            ValueError: machines without a common file system have other checkpoints, or other pictures.
        """
        rows = {split: len(rows) for split, rows in getattr(trainer.datamodule, "splits", {}).items()}
        steps, sizes = zip(*of_all_processes(trainer, (self._step, rows)), strict=True)
        if len(set(steps)) > 1:
            raise ValueError(
                f"the processes would begin at different steps, {', '.join(map(str, steps))}; copy the run's folder "
                "from the first machine to all, and continue again"
            )
        if any(size != rows for size in sizes):
            raise ValueError(
                f"the processes have different pictures, {', '.join(map(str, sizes))}; copy the packed set from the "
                "first machine to all"
            )
        self._log_config(trainer, self.config)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it again, if it has changed: checkpoint and the experiment's callbacks have found nothing to refuse."""
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero and config_of(folder).read_text(encoding="utf-8") != self.config:
            self._write_config(folder)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log that of the folder: this may be another one."""
        if trainer.is_global_zero:
            self._log_config(trainer, config_of(Path(trainer.default_root_dir)).read_text(encoding="utf-8"))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let others train there."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same for a training that does not end well."""
        self._release()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse pictures of other classes than the network knows: its outputs would mean something else.

        Raises:
            ValueError: names some of both.
        """
        self._step = checkpoint.get("global_step", 0)
        known = checkpoint.get("preprocessing", {}).get("classes")
        here = getattr(trainer.datamodule, "classes", None)
        if known and here and list(known) != list(here):
            those, these = (", ".join(map(str, classes[:6])) for classes in (known, list(here)))
            raise ValueError(f"the network was trained on the classes {those}; those of the data are {these}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let a checkpoint alone say which run it came from, and how pictures are prepared for its network."""
        checkpoint["config"] = self.config
        if hasattr(trainer.datamodule, "preprocessing"):
            checkpoint["preprocessing"] = trainer.datamodule.preprocessing

    def _require_same_evaluation(self, folder: Path, trainer: Trainer, stage: str) -> None:
        """A report says nothing of its settings, nor of its pictures: they are those of the run."""
        trained, asked = (
            yaml.safe_load(text) or {} for text in (config_of(folder).read_text(encoding="utf-8"), self.config)
        )
        for name, was, now in differences(trained, asked):
            if name in DECIDE or (name == SOURCE and _of_others(folder, trainer, stage)):
                raise FileExistsError(
                    f"the report in {folder} is of the run's own settings, where {name} is {was}, not {now}; choose a "
                    "--name for another"
                )

    def _write_config(self, folder: Path) -> None:
        with whole_file(folder / CONFIG) as partial:
            partial.write_text(self.config, encoding="utf-8")

    def _log_config(self, trainer: Trainer, config: str) -> None:
        if trainer.is_global_zero:
            for dashboard in trainer.loggers:
                log_config(dashboard, config)

    def _release(self) -> None:
        if self._lock:
            self._lock.release()
            self._lock = None


def locked(folder: Path, patience: float | None = None) -> FileLock:
    """The lock of a run's folder, held; the system releases it if the process is killed.

    Args:
        patience: seconds to wait for another process to end; by default as long as loader processes may need for it.

    Raises:
        FileExistsError: another process holds it.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE if patience is None else patience)
    except Timeout as error:
        raise FileExistsError(f"another process trains in {folder}; let it end, or choose another --name") from error
    return lock


class RunLog(logging.FileHandler):
    """The log of a run. If the disk refuses it, that is said once, and the run goes on."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, encoding="utf-8")
        self.given_up = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Say it, in place of logging's traceback for each line."""
        if not self.given_up:
            self.given_up = True
            print(f"warning: {self.baseFilename} cannot be written ({sys.exc_info()[1]}); the run goes on without it")


def log_to(file: Path) -> None:
    """Write the program's log to a file as well; an earlier run's file in this process is closed."""
    log = logging.getLogger("litvision")
    for handler in [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]:
        log.removeHandler(handler)
        handler.close()
    handler = RunLog(file)
    faulthandler.enable(handler.stream)  # what the system kills the program for: where in it that was
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)


def _of_others(folder: Path, trainer: Trainer, stage: str) -> bool:
    """Whether there are predictions of other pictures than the trainer's data module has."""
    stored = {"test": ("test", PROBABILITIES), "validate": ("val", OF_VALIDATION)}
    with suppress(KeyError, FileNotFoundError, ValueError):  # a stage without predictions, or none yet, or damaged ones
        split, name = stored[stage]
        return Predictions.load(folder, name).split != trainer.datamodule.checksum_of(split)
    return False


def new_run(experiment: str, name: str | None, fit: bool) -> Path:
    """Folder for what a command writes, named by the time if not otherwise.

    Raises:
        ValueError: the name is that of no folder beside the other runs.
        FileExistsError: a training would overwrite what is there, or another one has begun there.
    """
    if name:
        require_plain(name)
    folder = Path("runs", experiment, name or datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if not name and folder.exists():  # a run of some batches may be over within the second
        folder = next(other for n in count(2) if not (other := folder.with_name(f"{folder.name}-{n}")).exists())
    if fit and (folder / LOCK).exists():
        locked(folder, patience=0).release()
    if fit and holds_run(folder):
        raise FileExistsError(
            f"{folder} holds a run already; fit --continue {shlex.quote(str(folder))} goes on with it, and another "
            "--name begins another"
        )
    return folder


def require_plain(name: str) -> None:
    """Refuse a name that leads out of the folder of an experiment, or into another run's.

    Raises:
        ValueError: it does.
    """
    if Path(name).name != name or name == "..":
        raise ValueError(f"--name {name} is no name of a folder: leave out the / and the ..")


def holds_run(folder: Path) -> bool:
    """Whether there is any checkpoint; users delete some of them to save space."""
    return any((folder / LAST).parent.glob("*.ckpt"))


def begun(experiment: str, name: str | None, command: str) -> Path | None:
    """The run that a command began earlier: that of its name, else the newest that the same command began."""
    if name:
        folder = Path("runs", experiment, name)
        return folder if (folder / CONFIG).exists() else None
    started: dict[Path, str] = {}
    for file in Path("runs", experiment).glob(f"*/{SESSIONS}"):
        first = json.loads(file.read_text(encoding="utf-8"))[0]
        if _without_resume(first["command"]) == _without_resume(command):
            started[file.parent] = first["started"]
    return max(started, key=lambda folder: started[folder], default=None)


def _without_resume(command: str) -> str:
    return command.replace("--resume=auto", "--resume auto").replace(" --resume auto", "")


def config_of(run: Path) -> Path:
    """The resolved configuration of a run.

    Raises:
        FileNotFoundError: the folder is not a run's.
    """
    if not (run / CONFIG).is_file():
        raise FileNotFoundError(f"{run} is not a run's folder: it holds no {CONFIG}")
    return run / CONFIG


def settings_of(run: Path) -> dict[str, Any]:
    """What the configuration of a run says.

    Raises:
        FileNotFoundError: the folder is not a run's.
        ValueError: the configuration is damaged.
    """
    path = config_of(run)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is no configuration of a run")
    return settings


def checkpoint_of(run: Path, which: str = BEST) -> Path:
    """The best checkpoint of a run, or its last.

    Raises:
        FileNotFoundError: the run has not written it.
    """
    if not (run / which).is_file():
        raise FileNotFoundError(f"{run} has no {which}: the run did not finish an epoch, or it was deleted")
    return run / which
