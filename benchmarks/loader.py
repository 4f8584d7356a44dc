"""How fast our loader makes training batches, beside other loaders on the same pictures.

    python benchmarks/loader.py --source FOLDER > benchmarks/LOADER.md    # folder with the raw official files
    python benchmarks/loader.py --quick --json ratios.json                # made-up pictures, about a minute

Each loader lives in a process of its own, so that its processor time and memory are known, and all of them take turns:
while one is clocked, the others wait with full queues. Before the clock starts, a window reads the loader's files, so
that they are in the page cache, and takes the batches that were made ahead; these are checked by their pixels, those
under the clock by shape and type. Linux only: processor time and memory are read from /proc.

`requirements-bench.txt` lists the packages of the other loaders; one that is not installed is left out.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.loader_packages import PACKAGED
from benchmarks.loader_peers import OURS, WITHOUT_PACKAGE, Batches, Output, Peer
from benchmarks.loader_workloads import BATCH, WORKLOADS, Pictures, prepare
from callbacks.provenance import abbreviated, commit, hardware
from terminal import as_typed

PEERS = (*WITHOUT_PACKAGE, *PACKAGED)
PACKAGES = ("torch", "torchvision", "numpy", "h5py", "albumentations", "opencv-python-headless", "pillow")
OUTPUTS: dict[Output, str] = {
    "float32": "float32 batches, normalised",
    "uint8": "uint8 batches, to be normalised on a GPU",
}
PROCESSES = multiprocessing.get_context("forkserver")  # threads of ours would not survive a plain fork
PROCESSES.set_forkserver_preload(["albumentations", "pytorch_lightning", "scipy.ndimage", "sklearn", "torchvision"])
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Protocol:
    """How long is measured.

    Args:
        rounds: windows of each loader.
        seconds: length of a window at least.
        batches: batches in a window at least.
        rows: pictures at most; a workload has its own number.
        trials: try all numbers of workers, rather than take the first.
    """

    rounds: int
    seconds: float
    batches: int
    rows: float
    trials: bool
    outputs: tuple[Output, ...]


FULL = Protocol(rounds=5, seconds=1.0, batches=8, rows=math.inf, trials=True, outputs=("float32", "uint8"))
QUICK = Protocol(rounds=3, seconds=0.2, batches=2, rows=256, trials=False, outputs=("float32",))


@dataclass(frozen=True)
class Window:
    """What one turn of a loader gave.

    ``memory`` is in bytes, of the whole process tree: anonymous and shared pages, a page that several processes hold
    divided among them. Mapped files are not in it, since they can be dropped at any time.
    """

    images: int
    seconds: float
    cpu_seconds: float
    memory: int

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    options = parse(arguments)
    protocol = QUICK if options.quick else FULL
    names = options.peers or [peer.name for peer in (WITHOUT_PACKAGE if options.quick else PEERS)]
    chosen = [peer for peer in PEERS if peer.name in names]
    missing = [peer for peer in chosen if not installed(peer)]
    peers = [OURS, *(peer for peer in chosen if peer not in missing)]
    print(heading(protocol, options.source, missing), flush=True)
    ratios: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for workload in [workload for workload in WORKLOADS if workload.name in options.workloads]:
            rows = int(min(protocol.rows, workload.rows))
            pictures = prepare(workload, options.source, rows, options.cache or Path(temporary))
            for peer in peers:
                in_own_process(peer.prepare, pictures)
            for output in protocol.outputs:
                able = [peer for peer in peers if output in peer.outputs]
                measured = take_turns(able, pictures, output, protocol)
                print(table(f"{workload.title}; {OUTPUTS[output]}", measured), flush=True)
                if output == "float32":
                    others = measured[1:]
                    ratios[workload.name] = {row.peer.name: round(row.behind(measured[0]), 4) for row in others}
    if options.json:
        options.json.write_text(json.dumps({"ratios": ratios}, indent=1) + "\n", encoding="utf-8")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    workloads, names = [w.name for w in WORKLOADS], [peer.name for peer in PEERS]
    parser.add_argument("--source", type=Path, help="folder of the raw official files; pictures are made up without it")
    parser.add_argument("--cache", type=Path, help="keep the prepared pictures here (about 12 GB), and use them again")
    parser.add_argument(
        "--quick", action="store_true", help="few pictures, short windows; no extra packages by default"
    )
    parser.add_argument("--json", type=Path, help="write our speed over each other's to this file")
    parser.add_argument("--workloads", nargs="+", choices=workloads, default=workloads, metavar="NAME", help="of all")
    parser.add_argument("--peers", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    return parser.parse_args(arguments)


def installed(peer: Peer) -> bool:
    """Whether the package that the loader needs is there."""
    with suppress(PackageNotFoundError):
        return peer.distribution is None or bool(version(peer.distribution))
    return False


# Taking turns


@dataclass(frozen=True)
class Row:
    """The windows of one loader, in the order of the rounds."""

    peer: Peer
    title: str
    windows: list[Window]

    def behind(self, ours: "Row") -> float:
        """Our speed over this loader's: the median over the rounds."""
        pairs = zip(ours.windows, self.windows, strict=True)
        return median(mine.speed / its.speed for mine, its in pairs)


def take_turns(peers: Sequence[Peer], pictures: Pictures, output: Output, protocol: Protocol) -> list[Row]:
    """A row for each loader. In each round, another one begins."""
    with ExitStack() as stack:
        loaders = [stack.enter_context(closing(fastest(peer, pictures, output, protocol))) for peer in peers]
        rows = [Row(loader.peer, loader.title, []) for loader in loaders]
        for turn in range(protocol.rounds):
            first = turn % len(loaders)
            for number in [*range(first, len(loaders)), *range(first)]:
                rows[number].windows.append(loaders[number].window(protocol))
            print(f"{pictures.workload.name}, {output}: round {turn + 1} of {protocol.rounds}", file=sys.stderr)
        return rows


def fastest(peer: Peer, pictures: Pictures, output: Output, protocol: Protocol) -> "Loader":
    """A running loader, warmed up, with the number of workers that is best on this machine."""
    with ExitStack() as stack:
        tried = peer.workers if protocol.trials else peer.workers[:1]
        loaders = [stack.enter_context(closing(Loader(peer, pictures, output, workers))) for workers in tried]
        for loader in loaders:  # the first window reads files and starts workers
            loader.window(replace(protocol, seconds=0, batches=1))
        trials = [[loader.window(protocol).speed for loader in loaders] for _ in range(3 * (len(loaders) > 1))]
        best = loaders[np.argmax(np.median(trials, axis=0)) if trials else 0]
        stack.pop_all()
    for loader in loaders:
        if loader is not best:
            loader.close()
    return best


class Loader:
    """A loader in its own process, that runs only during its windows."""

    def __init__(self, peer: Peer, pictures: Pictures, output: Output, workers: int) -> None:
        self.peer = peer
        self.title = f"{peer.title}, {workers} {peer.unit}{'s' * (workers != 1)}" if peer.unit else peer.title
        self.connection, theirs = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=serve, args=(theirs, peer, pictures, output, workers))
        self.process.start()
        theirs.close()

    def window(self, protocol: Protocol) -> Window:
        """Let it run.

        Raises:
            RuntimeError: the loader fails, or a batch is not what it should be.
        """
        try:
            self.connection.send(protocol)
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            answer = f"its process ended, with code {self.process.exitcode}"
        if isinstance(answer, str):
            raise RuntimeError(f"{self.title} failed; leave it out by --peers. {answer}")
        return answer

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self.connection.send(None)
        self.process.join(10)
        self.process.kill()
        self.process.join()


def in_own_process(target: Callable[[Pictures], None], pictures: Pictures) -> None:
    """Run a preparation where it leaves no memory behind."""
    process = PROCESSES.Process(target=quietly, args=(target, pictures))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{target.__name__} failed on {pictures.workload.name}; its error is above")


def quietly(target: Callable[[Pictures], None], pictures: Pictures) -> None:
    """Run a preparation without a word on stdout."""
    settle_in()
    target(pictures)


# In a loader's process


def settle_in() -> None:
    """Standard output is the report's; loaders fork their workers, and leave the second core to them."""
    os.dup2(2, 1)
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)


def serve(connection: Connection, peer: Peer, pictures: Pictures, output: Output, workers: int) -> None:
    """Answer each request with a window, or with what went wrong."""
    settle_in()
    try:
        batches = peer.batches(pictures, output, workers)
        while protocol := connection.recv():
            connection.send(window(batches, peer, pictures, output, workers, protocol))
    except (EOFError, KeyboardInterrupt):  # the other side is gone
        return
    except Exception:
        connection.send(traceback.format_exc())


def window(
    batches: Batches, peer: Peer, pictures: Pictures, output: Output, workers: int, protocol: Protocol
) -> Window:
    """One turn: read the files, check what was made ahead, then clock."""
    read_through(pictures.folder / peer.reads)
    size = pictures.workload.stored if peer.whole else pictures.workload.size
    shapes = ((BATCH, 3, size, size), (BATCH, size, size, 3))
    dtype = torch.uint8 if peer.whole else getattr(torch, output)
    for _ in range(2 * workers + 2):  # a DataLoader makes two batches ahead in each worker
        check(*next(batches), shapes, dtype, pictures)
    images, cpu, clock = 0, cpu_seconds(), time.perf_counter()
    while images < protocol.batches * BATCH or time.perf_counter() - clock < protocol.seconds:
        pixels, labels = next(batches)
        if pixels.shape not in shapes or pixels.dtype != dtype or len(labels) != BATCH:
            raise ValueError(f"a batch is {pixels.dtype} {tuple(pixels.shape)} with {len(labels)} labels")
        images += BATCH
    seconds, cpu = time.perf_counter() - clock, cpu_seconds() - cpu
    memory = memory_bytes()
    wait_until_idle()
    return Window(images, seconds, cpu, memory)


def check(
    pixels: Tensor, labels: Tensor, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, pictures: Pictures
) -> None:
    """Prove that a batch holds pictures that differ, with the mean and deviation of the set.

    Raises:
        ValueError: it does not.
    """
    if tuple(pixels.shape) not in shapes or pixels.dtype != dtype:
        raise ValueError(f"a batch is {pixels.dtype} {tuple(pixels.shape)}, not {dtype} of one of {shapes}")
    if tuple(labels.shape) != (BATCH,) or labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}, not int64 ({BATCH},)")
    if labels.min() < 0 or labels.max() > pictures.labels.max():
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}")
    values = pixels[:, :, ::4].float()  # every fourth row or column, whichever comes third
    if dtype == torch.uint8:
        values = (values - pictures.mean.mean()) / pictures.std.mean()
    mean, deviation, between = values.mean().item(), values.std().item(), values.mean(dim=(1, 2, 3)).std().item()
    if not (abs(mean) < 0.6 and 0.4 < deviation < 1.6 and between > 0.02):
        raise ValueError(f"mean {mean:.2f}, deviation {deviation:.2f}, {between:.2f} between pictures: not pictures")


def read_through(path: Path) -> None:
    """Read a file, or all files of a folder, so that they are in the page cache."""
    buffer = bytearray(2**20)
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass


def wait_until_idle() -> None:
    """Wait until queues are full and worker processes rest, so that they take nothing from the next loader.

    Raises:
        RuntimeError: they do not.
    """
    for _ in range(100):
        before = cpu_seconds()
        time.sleep(0.2)
        if cpu_seconds() - before <= 2 / TICK:
            return
    raise RuntimeError("the loader goes on working while nobody takes its batches")


def family() -> list[Path]:
    """Folders in /proc of this process and its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # a process that has just ended
            parents[stat.parent] = Path("/proc") / stat.read_text().rpartition(")")[2].split()[1]
    members = [Path("/proc") / str(os.getpid())]
    for member in members:  # grows while it is walked
        members += [child for child, parent in parents.items() if parent == member]
    return members


def cpu_seconds() -> float:
    """Processor time of this process and its descendants, those that have ended included."""
    return sum(sum(map(int, (p / "stat").read_text().rpartition(")")[2].split()[11:15])) for p in family()) / TICK


def memory_bytes() -> int:
    """Memory of this process and its descendants, see ``Window``."""
    lines = [line.split() for p in family() for line in (p / "smaps_rollup").read_text().splitlines()]
    return sum(1024 * int(line[1]) for line in lines if line[0] in ("Pss_Anon:", "Pss_Shmem:"))


# The report


def heading(protocol: Protocol, source: Path | None, missing: Sequence[Peer]) -> str:
    """What was measured, how, on what."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    compiled = f"with numba {version('numba')}" if find_spec("numba") else "without numba"
    packages = sorted({peer.distribution for peer in PEERS if peer.distribution and installed(peer)})
    others = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"""# Loaders

`{as_typed(__file__)}`, commit {abbreviated(commit(Path(__file__).parent))}, on \
{"real" if source else "made-up"} pictures in the page cache.
{hardware(torch.device("cpu"))}; load average before the start {os.getloadavg()[0]:.1f}.
Python {platform.python_version()}, {versions}; ours {compiled}; {others or "no other loader's package"}.
Not installed, left out: {", ".join(peer.name for peer in missing) or "none"}.

Median (range) of {protocol.rounds} windows each, taken in turns, of at least {protocol.seconds} s and \
{protocol.batches} batches of {BATCH}. "Ours / its" is the median of \
the rounds' ratios. CPU time is that of all threads and processes. Memory counts anonymous and shared pages of all \
processes, not mapped files; the most of any window.\
{" The number of workers is the best of a trial, by the median of three windows." * protocol.trials}"""


def table(title: str, rows: Sequence[Row]) -> str:
    """The rows, ours first, as markdown."""
    lines = ["", f"## {title}", ""]
    lines += ["| loader | images/s | ours / its | CPU seconds for 1 000 | memory, MiB |", "| --- " * 5 + "|"]
    for row in rows:
        columns = [
            row.title,
            spread([window.speed for window in row.windows], 0),
            f"{row.behind(rows[0]):.3g}",
            spread([1000 * window.cpu_seconds / window.images for window in row.windows], 4),
            f"{max(window.memory for window in row.windows) / 2**20:.0f}",
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    figures = (f"{figure:,.{digits}f}".replace(",", " ") for figure in (median(values), min(values), max(values)))
    return "{} ({} to {})".format(*figures)


if __name__ == "__main__":
    main()
