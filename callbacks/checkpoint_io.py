"""How checkpoints get to disk and back: whole or not at all."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from callbacks.run_folder import LAST, SNAPSHOT
from callbacks.whole_file import whole_file
from tensor_file import read_tensors

logger = logging.getLogger("litvision")


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there, and that can run no code when they are loaded."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any | None = None) -> None:
        """Write under a temporary name, flush to disk, rename: a kill leaves the earlier checkpoint as it was."""
        with whole_file(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load onto the CPU.

        Raises:
            ValueError: the file is damaged, or could run code.
        """
        if weights_only is False:  # only if typed: --weights_only false
            return torch.load(path, map_location=map_location or "cpu", weights_only=False)
        return read_tensors(path, "choose another with --ckpt_path")


def newest_whole(run: Path, none_is_fine: bool = False) -> Path | None:
    """The newest checkpoint that a run can go on from and that can be read; damaged ones are named and passed over.

    Raises:
        FileNotFoundError: there is none, and that is not fine.
    """
    steps: dict[Path, int] = {}
    for path in sorted((run / LAST).parent.glob("*.ckpt"), key=lambda path: path != run / LAST):
        if path.name.startswith(SNAPSHOT):  # of the last step of an epoch, which was not validated yet
            continue
        try:
            steps[path] = read_tensors(path, "passed over").get("global_step", -1)
        except ValueError as error:
            logger.warning("warning: %s", error)
    if not steps and not none_is_fine:
        raise FileNotFoundError(
            f"{run} has no checkpoint: the run did not finish an epoch, or it was deleted; the command that began it "
            "begins anew with --resume auto"
        )
    return max(steps, key=lambda path: steps[path], default=None)
