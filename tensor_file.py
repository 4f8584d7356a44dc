"""Files that torch.save wrote, read so that nothing in them can run and no damage goes unseen."""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch


def read_tensors(path: str | Path, remedy: str) -> Any:
    """The tensors and plain values of a file, on the CPU.

    A pickle may name any function for the reader to call. Here all names are refused but those that tensors need
    (``weights_only``). torch does not look at the checksums of its files; they are compared first.

    Args:
        path: of the file.
        remedy: what to do about a damaged one, for the message.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or it could run code; the message says which.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                if part := file.testzip():
                    raise ValueError(f"the checksum of {part} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:  # the disk; damage has no number
            raise
        if asked := _what_could_run(path, str(error)):
            raise ValueError(
                f"{path} was not loaded, as that could run code: it asks for {asked}, and weights are only tensors and "
                "plain values. If you did not make it yourself, delete it; what main.py fit and "
                "torch.save(network.state_dict(), FILE) write is loaded"
            ) from error
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
        raise ValueError(
            f"{path} is damaged, or is not a checkpoint ({reason.splitlines()[0][:100]}); {remedy}"
        ) from error


def _what_could_run(path: str | Path, refusal: str) -> str | None:
    """What a file asks for that torch refuses to load; None where it is merely damaged."""
    if named := re.search(r"GLOBAL ([\w.]+)", refusal):
        return named[1]
    with open(path, "rb") as file:
        is_pickle = file.read(1) == b"\x80"
    return "parts of a pickle that torch.save never writes" if is_pickle and "Unsupported operand" in refusal else None
