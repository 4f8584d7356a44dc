"""How checkpoints get to disk and back: whole or not at all."""

import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from callbacks.run_folder import LAST

logger = logging.getLogger("litvision")


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there, and that can run no code when they are loaded."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any | None = None) -> None:
        """Write under a temporary name, flush to disk, rename: a kill leaves the earlier checkpoint as it was."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        partial = f"{path}.partial"
        with open(partial, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def load_checkpoint(
        self, path: str, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load onto the CPU.

        Raises:
            ValueError: the file is damaged, or holds more than weights and plain values.
        """
        try:
            _check_sums(path)
            return torch.load(path, map_location=map_location or "cpu", weights_only=weights_only is not False)
        except OSError:
            raise
        except Exception as error:  # a damaged file can raise nearly anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{path} is damaged, or is not a checkpoint of this program ({reason[:100]}); "
                "choose another with --ckpt_path"
            ) from error


def newest_whole(run: Path, none_is_fine: bool = False) -> Path | None:
    """The newest checkpoint of a run that can be read; damaged ones are named and passed over.

    Raises:
        FileNotFoundError: there is none, and that is not fine.
    """
    steps: dict[Path, int] = {}
    for path in sorted((run / LAST).parent.glob("*.ckpt"), key=lambda path: path != run / LAST):
        try:
            steps[path] = WholeCheckpointIO().load_checkpoint(str(path)).get("global_step", -1)
        except ValueError as error:
            logger.warning("passed over: %s", error)
    if not steps and not none_is_fine:
        raise FileNotFoundError(f"{run} has no checkpoint: the run did not finish an epoch, or it was deleted")
    return max(steps, key=lambda path: steps[path], default=None)


def _check_sums(path: str) -> None:
    """Compare the check sums of the file's parts, which torch writes and does not read."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if part := file.testzip():
                raise ValueError(f"the check sum of {part} is wrong")
