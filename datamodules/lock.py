"""One process at a time does what all of them need."""

import logging
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger("litvision")


def one_at_a_time(file: Path, doing: str) -> AbstractContextManager:
    """Hold a lock file, which the system releases even if the process is killed; who comes second says that it waits.

    Args:
        file: of the lock.
        doing: what is done meanwhile, like ``packing digits``.
    """
    lock = FileLock(file)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is %s; waiting until it is done (it holds %s)", doing, file)
        return lock.acquire()
