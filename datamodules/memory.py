"""How much memory this process may still use."""

import resource
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that are free or only cache, within the limits of the machine, the control group and the process."""
    limits = [psutil.virtual_memory().available, _left_in_group(), _left_in_process()]
    return max(0, min(limit for limit in limits if limit is not None))


def _left_in_group() -> int | None:
    """What a container may still use; its page cache counts as free."""
    try:
        limit = int((CGROUP / "memory.max").read_text())  # "max" without a limit
        used = int((CGROUP / "memory.current").read_text())
        cache = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())["file"]
    except (OSError, KeyError, ValueError):
        return None
    return limit - used + int(cache)


def _left_in_process() -> int | None:
    """What `ulimit -v` leaves of the address space."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    return limit - psutil.Process().memory_info().vms
