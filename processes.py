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
TORCHRUN_KILLS = 30.0  # seconds after a SIGTERM, which a training that is about to fail may take for the wish to pause

_launched: list[subprocess.Popen] = []  # by this process


def end_together() -> None:
    """Let this process end with its launcher, or if it is the launcher, with the first process that fails.

    Without this an orphan could wait for hours in a collective operation. Lightning's own observer of the launched
    processes kills all within seconds, before anyone can say why.
    """
    subprocess_script._launch_process_observer = _watch_launched
    if "LOCAL_RANK" in os.environ:  # launched, by Lightning or by torchrun
        parent = os.getppid()
        _in_background(_end_with_launcher, parent if _by_torchrun() else int(os.environ.get(LAUNCHER, parent)))
    else:
        os.environ[LAUNCHER] = str(os.getpid())


def first_error(error: Exception) -> Exception:
    """The error to show of one that this process has met, once another process had the time to show its own.

    A lost connection follows from the end of another process: if that is on this machine, its launcher ends this one
    while it waits here. Of an error that all processes meet, only the first one's remains.
    """
    if isinstance(error, DistBackendError) or "gloo/" in str(error):
        time.sleep(PATIENCE + TORCHRUN_KILLS * _by_torchrun())
        return ConnectionError(
            "the connection to another process of this run is lost: that process has ended, or its machine cannot be "
            "reached. What it said stands above, or on its machine; one that says nothing was killed.\n"
            "Machines that cannot find each other want GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME, the network's name.\n"
            f"({str(error).splitlines()[0][:150]})"
        )
    if rank_zero_only.rank:
        time.sleep(PATIENCE)
        return RuntimeError(f"rank {rank_zero_only.rank}: {error or repr(error)}")
    launched = [*_launched]
    _launched.clear()  # they are not watched any more
    for process in launched:
        process.kill()
    return error


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _watch_launched(launched: Sequence[subprocess.Popen]) -> None:
    _launched[:] = launched
    _in_background(_end_with_launched)


def _in_background(watch: Callable, *watched: int) -> None:
    threading.Thread(target=watch, args=watched, daemon=True).start()


def _end_with_launcher(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(POLL)
    os._exit(1)


def _end_with_launched() -> None:
    while not (failed := [(rank, process) for rank, process in enumerate(_launched, 1) if process.poll()]):
        if all(process.returncode == 0 for process in _launched):
            return
        time.sleep(POLL)
    time.sleep(GRACE)
    if not (_launched and threading.main_thread().is_alive()):  # this process is ending by itself
        return
    rank, process = failed[0]
    number = signal.SIGTERM if process.returncode == 128 + signal.SIGTERM else -process.returncode
    if number > 0:  # otherwise it has said why
        print(
            f"error: rank {rank} was killed by {signal.Signals(number).name}; the system does that where memory runs "
            "out. fit --continue FOLDER continues the run",
            file=sys.stderr,
            flush=True,
        )
    for process in _launched:
        process.kill()
    os._exit(1)
