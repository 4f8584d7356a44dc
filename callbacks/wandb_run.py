"""A run on Weights & Biases that cannot end or hold up the training it describes."""

import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger

from callbacks.run_folder import BEST
from callbacks.run_loggers import PAUSED
from callbacks.whole_file import write_json

KEPT = "wandb_run.json"  # in the run's folder: the id on W&B, and the step up to which it was logged
STAGING = "WANDB_DATA_DIR"  # variable of the folder in which tables and checkpoints wait to be sent
SECONDS = {"init_timeout": 30, "finish_timeout": 300}  # settings of wandb; WANDB_INIT_TIMEOUT and so on win

logger = logging.getLogger("litvision")


class WandbRun(WandbLogger):
    """A W&B run whose axis is the training step, also over several sessions. What fails is left out, and said once.

    Args:
        run: as ``wandb.init`` gave it.
        folder: of the run.
        first_step: nothing is logged at an earlier one, since W&B wants steps in order.
    """

    def __init__(self, run: wandb.Run, folder: Path, first_step: int) -> None:
        super().__init__(experiment=run, project=run.project, save_dir=str(folder))
        self._folder, self._first_step = folder, first_step
        os.environ.setdefault(STAGING, str(folder.resolve() / "wandb"))
        self._best: ModelCheckpoint | None = None
        self._broken = False

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Log at a step, or at the last one if that is later."""
        run = self.experiment
        self._attempt(lambda: run.log(dict(metrics), step=max(step or 0, run.step, self._first_step)))

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """The configuration, as it is nested."""
        self._attempt(lambda: self.experiment.config.update(params, allow_val_change=True))

    def log_image(self, key: str, images: list[Any], step: int | None = None, caption: list[str] | None = None) -> None:
        """A gallery, with a caption for each picture."""
        captions = caption or [None] * len(images)
        pairs = zip(images, captions, strict=True)
        self._attempt(lambda: self.log_metrics({key: [wandb.Image(i, caption=text) for i, text in pairs]}, step))

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Remember who has the best checkpoint."""
        if Path(checkpoint_callback.best_model_path).name == Path(BEST).name:
            self._best = checkpoint_callback

    def finalize(self, status: str) -> None:
        """Log the best checkpoint, wait until all is sent or written, and let another run of this process begin.

        A paused run is marked as preempting, which with an exit code makes it "preempted" there, not "failed".
        """
        run = self.experiment
        if self._best and status == "success":
            self._attempt(self._log_best)
        if status == PAUSED:
            self._attempt(run.mark_preempting)
        try:
            keep(self._folder, run.id, max(self._first_step, run.step))
            run.finish(exit_code=int(status != "success"))
        except Exception as error:
            self._say(error)
        if os.environ.get(STAGING) == str(self._folder.resolve() / "wandb"):
            del os.environ[STAGING]

    def _log_best(self) -> None:
        # A file that replaces this one must not be sent in its stead, perhaps days later: a second name for its content
        path = Path(self._best.best_model_path)
        same = Path(self.experiment.dir).parent / path.name
        try:
            os.link(path, same)
        except OSError:  # not every file system has links
            shutil.copyfile(path, same)
        score = self._best.best_model_score
        metadata = {} if score is None else {str(self._best.monitor): float(score)}
        artifact = wandb.Artifact(f"model-{self.experiment.id}", "model", metadata=metadata)
        artifact.add_file(str(same), path.name, policy="immutable")  # else it is copied into the home folder
        self.experiment.log_artifact(artifact, aliases=["latest", "best"])

    def _attempt(self, action: Callable[[], object]) -> None:
        if self._broken:
            return
        try:
            action()
        except Exception as error:  # of a service, a network or a disk that training does not need
            self._say(error)

    def _say(self, error: Exception) -> None:
        if not self._broken:
            logger.warning("W&B fails, and gets no more of this run: %s", in_a_line(error))
        self._broken = True


def resume_or_begin(folder: Path, resumed: bool) -> WandbRun | None:
    """The W&B run of a run's folder, the same as before if it is resumed; None where there can be none, and a line why.

    Online with a key (``WANDB_API_KEY`` or netrc), else offline; ``WANDB_MODE``, ``WANDB_PROJECT``, ``WANDB_NAME`` and
    ``WANDB_RUN_GROUP`` are respected. Where the server cannot be reached, offline.
    """
    try:
        settings = wandb.setup(wandb.Settings(silent=True)).settings
    except Exception as error:  # a variable or a file of settings that it does not understand
        logger.warning("W&B cannot be started, the run goes on without it: %s", in_a_line(error))
        return None
    if settings.mode == "disabled":
        logger.info("W&B is disabled by WANDB_MODE")
        return None
    own = {name: value for name, value in SECONDS.items() if f"WANDB_{name.upper()}" not in os.environ}
    experiment, name = folder.resolve().parent.name, folder.resolve().name
    online = settings.mode not in ("offline", "dryrun") and has_key(settings)
    for mode in ["online"] * online + ["offline"]:
        try:
            (folder / "wandb").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder / "wandb"):  # else wandb takes the system's temporary folder
                pass
            identity, step = (kept(folder) if resumed else None) or (uuid.uuid4().hex[:8], 0)
            keep(folder, identity, step)
            run = wandb.init(
                project=settings.project or "litvision",
                group=settings.run_group or experiment,
                name=settings.run_name or f"{experiment}/{name}",
                id=identity,
                resume="allow",
                dir=str(folder.resolve()),
                mode=mode,
                reinit="create_new",  # whatever else this process logs
                settings=wandb.Settings(console="off", disable_code=True, silent=True, **own),
            )
        except Exception as error:  # wandb's own and those of its service, which share no other base
            wandb.teardown()  # it would still hold the id
            instead = "offline" if mode == "online" else "without it"
            logger.warning("W&B cannot be started, the run goes on %s: %s", instead, in_a_line(error))
            continue
        logger.info("W&B: %s", run.url if mode == "online" else f"offline; wandb sync {folder / 'wandb'} uploads it")
        return WandbRun(run, folder, step)
    return None


def has_key(settings: wandb.Settings) -> bool:
    """Whether the server would know who we are."""
    if settings.api_key or settings.identity_token_file:
        return True
    places = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for place in places:
        with suppress(OSError, NetrcParseError):
            return netrc(os.path.expanduser(place)).authenticators(urlsplit(settings.base_url).netloc) is not None
    return False


def kept(folder: Path) -> tuple[str, int] | None:
    """Id and last step of the run's earlier sessions on W&B, if there were any."""
    if not (folder / KEPT).exists():
        return None
    found = json.loads((folder / KEPT).read_text(encoding="utf-8"))
    return found["id"], found["step"]


def keep(folder: Path, identity: str, step: int) -> None:
    """Write them down."""
    write_json({"id": identity, "step": step}, folder / KEPT)


def in_a_line(error: Exception) -> str:
    """What an error says, in brief."""
    return " ".join((str(error) or repr(error)).split())[:150]
