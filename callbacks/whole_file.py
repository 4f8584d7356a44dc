"""Files of a run that are whole or not there, and those that a run can do without."""

import errno
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger("litvision")

_given_up: set[Path] = set()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The temporary name to write a file under; it is flushed to disk and renamed, or nothing of it remains.

    Raises:
        OSError: the disk refuses it; names the file, where libraries lose name and reason.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except Exception as error:
        if (reason := _of_the_disk(error)) is None:
            raise
        raise OSError(reason.errno or errno.EIO, reason.strerror or str(reason), str(path)) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_json(content: Any, path: Path) -> None:
    """JSON text, a line for each value, in a whole file."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def dispensable_file(path: Path) -> Iterator[Path]:
    """The same for a file that is no reason to end a training: if the disk refuses it, that is said once."""
    try:
        with whole_file(path) as partial:
            yield partial
    except OSError as error:
        if path not in _given_up:
            _given_up.add(path)
            logger.warning("warning: %s cannot be written (%s); the run goes on without it", path, error.strerror)


def _of_the_disk(error: BaseException | None) -> OSError | None:
    """The system's error behind another one."""
    while error and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
