"""Packing killed at random moments: never a set that opens but is wrong.

    python benchmarks/kill_packing.py --kills 1000

A child process packs a small set of several shards a split, raw or as JPEG, into an empty place or over an older set
of other pictures, and is killed at a random moment. After that there is no set, or the older one, or the new one, each
exactly as an uninterrupted run leaves it; and packing again gives the new one, with nothing left over.
"""

import itertools
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from datamodules.audit import audit
from datamodules.jpeg import Encoding
from datamodules.manifest import MANIFEST, Manifest
from datamodules.pack import pack
from datamodules.samples import Samples
from terminal import command_line

SIZE, ROWS = 16, {"train": 60, "val": 20, "test": 20}
SHARD_BYTES = 10 * SIZE * SIZE * 3


def pack_small(folder: Path, encoding: Encoding, seed: int) -> None:
    """Pack random pictures over whatever is there."""
    rng = np.random.default_rng(seed)
    splits = {
        split: Samples(rng.integers(0, 256, (rows, SIZE, SIZE, 3), np.uint8), rng.integers(0, 3, rows))
        for split, rows in ROWS.items()
    }
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        recipe = {"image_size": SIZE, "seed": seed}
        how = {"overwrite": True, "shard_bytes": SHARD_BYTES, "encoding": encoding}
        pack(folder, "small", "abc", recipe, splits, SIZE, **how)


def start(folder: Path, encoding: Encoding, seed: int) -> multiprocessing.Process:
    """A child that packs; forked, so that it begins at once."""
    child = multiprocessing.get_context("fork").Process(target=pack_small, args=(folder, encoding, seed))
    child.start()
    return child


def state(folder: Path, whole: dict[str, bytes]) -> str:
    """Which of the whole sets a folder holds, by their manifests; ``none`` where it is not there.

    Raises:
        AssertionError: it holds something else, or is damaged.
    """
    if not folder.exists():
        return "none"
    Manifest.load(folder)
    findings = list(audit(folder))
    assert not findings, f"a set that opens is wrong: {findings}"
    manifest = (folder / MANIFEST).read_bytes()
    names = [name for name, expected in whole.items() if expected == manifest]
    assert names, "a set that opens holds something else than was packed"
    return names[0]


def kill_once(root: Path, encoding: Encoding, older: bool, whole: dict[str, bytes], delay: float) -> str:
    """Kill packing after a delay in seconds; what is there then.

    Raises:
        AssertionError: it is wrong, or packing cannot be done again.
    """
    folder = root / "set"
    if older:
        pack_small(folder, encoding, seed=0)
    child = start(folder, encoding, seed=1)
    time.sleep(delay)
    child.kill()
    child.join()
    found = state(folder, whole)
    assert older or found != "older"
    pack_small(folder, encoding, seed=1)
    assert state(folder, whole) == "new"
    left = {path.name for path in root.iterdir()} - {"set", ".set.lock"}
    assert not left, f"left over: {left}"
    shutil.rmtree(folder)
    return found


def kills(count: int, seed: int) -> Counter[str]:
    """How often each state was found, after so many kills.

    Raises:
        AssertionError: one of them left a set that is wrong.
    """
    rng, found = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        whole, seconds = {}, {}
        for encoding in ("raw", "jpeg"):
            times = []
            whole[encoding] = {}
            for known, number in [("older", 0), ("new", 1)] * 3:
                began = time.perf_counter()
                start(root / "set", encoding, number).join()
                times.append(time.perf_counter() - began)
                whole[encoding][known] = (root / "set" / MANIFEST).read_bytes()
            shutil.rmtree(root / "set")
            seconds[encoding] = statistics.median(times)
        cases = itertools.cycle(itertools.product(("raw", "jpeg"), (False, True)))
        for (encoding, older), _ in zip(cases, range(count), strict=False):
            delay = rng.uniform(0, 1.05 * seconds[encoding])
            left = kill_once(root, encoding, older, whole[encoding], delay)
            found[f"{encoding}, {'over an older set' if older else 'into an empty place'}: {left}"] += 1
    return found


def main() -> None:
    """Print what the kills left."""
    parser = command_line(__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    began = time.perf_counter()
    found = kills(arguments.kills, arguments.seed)
    print(
        f"{found.total()} kills in {time.perf_counter() - began:.0f} s, none left a set that opens but is wrong; left:"
    )
    for case, times in sorted(found.items()):
        print(f"{times:5d}  {case}")


if __name__ == "__main__":
    main()
