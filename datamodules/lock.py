"""One process at a time does what all of them need."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger("litvision")


@contextmanager
def one_at_a_time(file: Path, doing: str) -> Iterator[None]:
    """Hold a lock file, which the system releases even if the process is killed; who comes second says that it waits.

    Args:
        file: of the lock.
        doing: what is done meanwhile, like ``packing digits``.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is %s; waiting until it is done (it holds %s)", doing, file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
