"""What breaks a command from inside, in its own process: faults that no test can bring about from outside."""

import os
import signal
import sys
import time
from datetime import datetime, tzinfo

import numpy as np
from torch.utils.data import get_worker_info

from datamodules import batches, pack, shards

CALLS = 8


def _in_a_worker(deed: object) -> None:
    """Do something in the first loader process for each batch after the first few: some are made and never used."""
    make, calls = batches.Batches.__getitems__, iter(range(1_000_000))

    def sabotaged(self: batches.Batches, keys: object) -> object:
        worker = get_worker_info()
        if worker and worker.id == 0 and next(calls) >= CALLS:
            deed()
        return make(self, keys)

    batches.Batches.__getitems__ = sabotaged


def memory_runs_out_in_a_worker() -> None:
    _in_a_worker(lambda: np.empty(2**60, np.uint8))


def a_worker_ends() -> None:
    _in_a_worker(lambda: os._exit(3))


def memory_runs_out() -> None:
    """In the threads of the main process."""
    make, calls = batches.Batches.__getitems__, iter(range(1_000_000))

    def sabotaged(self: batches.Batches, keys: object) -> object:
        return np.empty(2**60, np.uint8) if next(calls) >= CALLS else make(self, keys)

    batches.Batches.__getitems__ = sabotaged


def nobody_looks_at_sizes() -> None:
    """As if a shard were cut short right after its size was looked at."""
    shards._Layout.check = lambda self, file: None


def packing_is_slow() -> None:
    write = pack.write_shard

    def slow(*args: object, **arrays: object) -> None:
        time.sleep(1)
        write(*args, **arrays)

    pack.write_shard = slow


def the_clock_jumps() -> None:
    """By a day, backwards and forwards, each time that somebody looks; clocks that only measure go on."""
    now, looks = time.time, iter(range(1_000_000))

    def jumping() -> float:
        return now() + (-1) ** next(looks) * 86_400

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.fromtimestamp(jumping(), tz)

    time.time, time.time_ns = jumping, lambda: int(jumping() * 1e9)
    for module in list(sys.modules.values()):
        if getattr(module, "datetime", None) is datetime:
            module.datetime = Jumping


def memory_is_called_full_by_the_system() -> None:
    """What the system does to the process that it ends when memory is gone."""
    _in_a_worker(lambda: os.kill(os.getpid(), signal.SIGKILL))
