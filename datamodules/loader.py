"""Batches made ahead, by threads in buffers that are used again, or by processes."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

Batch = tuple[Any, ...]
AHEAD = 2  # batches made ahead for each thread


class BatchLoader:
    """The batches of an epoch in their order, each made by one of a few threads while earlier ones are used.

    Threads share the memory map and hand over batches without copying them, so they beat processes wherever the work
    is done outside Python's interpreter lock.

    Args:
        make: makes a batch from the keys of its samples; called from several threads.
        batch_sampler: the keys of each batch.
        threads: how many make batches.
    """

    def __init__(self, make: Callable[[list[int]], Batch], batch_sampler: BatchSampler, threads: int = 1) -> None:
        self.make, self.batch_sampler, self.threads = make, batch_sampler, threads

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="batch")
        ahead: deque[Future[Batch]] = deque()
        try:
            for keys in self.batch_sampler:
                ahead.append(pool.submit(self.make, keys))
                if len(ahead) > self.threads * AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


class BufferPool:
    """Tensors on the CPU whose memory is used again once nobody holds them or a view of them.

    Fresh memory has to be mapped and cleared by the system at its first touch, which costs more than filling it.
    """

    def __init__(self) -> None:
        self._arrays: dict[Any, list[np.ndarray]] = defaultdict(list)
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: type) -> Tensor:
        """A tensor with any content."""
        with self._lock:
            arrays = self._arrays[shape, dtype]
            arrays.append(np.empty(shape, dtype))
            unused = sys.getrefcount(arrays[-1])  # a tensor made from an array holds it until its storage is freed
            for place in range(len(arrays) - 1):
                if sys.getrefcount(arrays[place]) <= unused:
                    arrays.pop()  # untouched, so it has cost nothing
                    return torch.from_numpy(arrays[place])
            return torch.from_numpy(arrays[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()


def worker_loader(
    batches: Dataset, batch_sampler: BatchSampler | list[list[int]], num_workers: int, pin_memory: bool
) -> DataLoader:
    """Batches of a dataset that makes them whole, made by processes that live as long as the loader.

    On Linux they are forked, whatever Python's default is: they begin at once, share the memory of the run, and are its
    own children, which end with it.
    """
    return DataLoader(
        batches,
        batch_sampler=batch_sampler,
        collate_fn=_whole_batch,
        num_workers=num_workers,
        multiprocessing_context="fork" if sys.platform == "linux" else None,
        persistent_workers=True,
        pin_memory=pin_memory,
        worker_init_fn=_as_worker,
    )


def _whole_batch(batch: Batch) -> Batch:
    """Collate nothing: the dataset returns whole batches."""
    return batch


def _as_worker(worker_id: int) -> None:
    """Keep each loader process on its own core, and leave it to the run to decide what a signal means.

    A terminal, torchrun or SLURM sends the wish to pause to all processes: the run still needs this one.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where nothing tells who has sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_for_the_run, daemon=True).start()


def _end_for_the_run() -> None:
    """End this process with the SIGTERM of its run, by which torch and Python end what has not ended by itself."""
    run = multiprocessing.parent_process()
    while run and signal.sigwaitinfo([signal.SIGTERM]).si_pid != run.pid:
        pass
    os._exit(128 + signal.SIGTERM)
