"""The processes of one run on one machine: none outlives the others, and the error that came first is the one shown."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from pytorch_lightning.strategies.launchers import subprocess_script
from pytorch_lightning.utilities import rank_zero_only
from torch.distributed import DistBackendError

LAUNCHER = "LITVISION_LAUNCHER"  # process id of the one that launched the others
POLL, GRACE, PATIENCE = 0.5, 1.0, 10.0  # seconds


def end_together() -> None:
    """Let this process end with its launcher, or if it is the launcher, with the first process that fails.

    Without this an orphan could wait for hours in a collective operation. Lightning's own observer of the launched
    processes kills all within seconds, before anyone can say why.
    """
    subprocess_script._launch_process_observer = lambda launched: _in_background(_end_with_launched, launched)
    if "LOCAL_RANK" in os.environ:  # launched, by Lightning or by torchrun
        _in_background(_end_with_launcher, int(os.environ.get(LAUNCHER, os.getppid())))
    else:
        os.environ[LAUNCHER] = str(os.getpid())


def first_error(error: Exception) -> Exception:
    """The error to show of one that this process has met, once another process had the time to show its own.

    A lost connection follows from the end of another process: if that is on this machine, its launcher ends this one
    while it waits here. Of an error that all processes meet, only the first one's remains.
    """
    if isinstance(error, DistBackendError) or "gloo/" in str(error):
        time.sleep(PATIENCE)
        return ConnectionError(
            "the connection to another process of this run is lost: that process has ended, or its machine cannot be "
            "reached. What it said stands above, or on its machine; one that says nothing was killed\n"
            f"({str(error).splitlines()[0][:150]})"
        )
    if rank_zero_only.rank:
        time.sleep(2 * GRACE)
        return RuntimeError(f"rank {rank_zero_only.rank}: {error or repr(error)}").with_traceback(error.__traceback__)
    return error


def _in_background(watch: Callable, watched: Sequence[subprocess.Popen] | int) -> None:
    threading.Thread(target=watch, args=(watched,), daemon=True).start()


def _end_with_launcher(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(POLL)
    os._exit(1)


def _end_with_launched(launched: Sequence[subprocess.Popen]) -> None:
    while not (failed := [rank for rank, process in enumerate(launched, 1) if process.poll()]):
        if all(process.returncode == 0 for process in launched):
            return
        time.sleep(POLL)
    time.sleep(GRACE)
    if not threading.main_thread().is_alive():  # it has ended by itself
        return
    code = launched[failed[0] - 1].returncode
    if code < 0:  # otherwise it has said why
        print(
            f"error: rank {failed[0]} was killed by {signal.Signals(-code).name}; the system does that where memory "
            "runs out. fit --run FOLDER continues the run",
            file=sys.stderr,
            flush=True,
        )
    for process in launched:
        process.kill()
    os._exit(1)
