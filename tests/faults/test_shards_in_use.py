"""Packed files that are cut short or deleted while a training reads them."""

import os
import shutil
import signal
from pathlib import Path

import pytest

WORKERS = ("--data.num_workers", "2")


def shard(place, split: str = "train") -> Path:
    (path,) = place.data.glob(f"digits-*/{split}-*.h5")
    return path


@pytest.mark.parametrize("flags", [(), pytest.param(WORKERS, marks=pytest.mark.slow)], ids=["threads", "processes"])
def test_cut_short(place, flags: tuple[str, ...]) -> None:
    copy = shutil.copy2(shard(place), place.folder / "copy.h5")
    place.fit("--trainer.max_epochs", "1", *flags).succeeds()
    error = place.go_on("--trainer.max_epochs", "500", fault="a_shard_is_cut_short").fails()
    said = f"{shard(place).name} changed while it was in use; delete the folder" in error
    assert said or (flags and "a shard was cut short meanwhile" in error)  # the other process was reading
    finished = place.whole()["epoch"] + 1
    assert "has 5000 bytes instead of" in place.go_on().fails()
    os.replace(copy, shard(place))
    place.go_on("--trainer.max_epochs", str(finished + 1)).succeeds()
    assert place.epochs() == list(range(1, finished + 2))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), WORKERS], ids=["threads", "processes"])
def test_cut_short_in_the_middle_of_a_read(place, flags: tuple[str, ...]) -> None:
    """What is left when no look at the size comes in between: the system kills the reader."""
    copy = shutil.copy2(shard(place), place.folder / "copy.h5")
    running = place.fit("--trainer.max_epochs", "500", *flags, fault="nobody_looks_at_sizes")
    running.until((place.run / "checkpoints/last.ckpt").exists)
    os.truncate(shard(place), 5000)
    if flags:
        error = running.fails()
        assert "read what is not there: a shard was cut short meanwhile (tools/shards.py verify)" in error
        assert "/dev/shm" in error
        assert "fit --continue" in error
    else:
        assert running.end() == -signal.SIGBUS
        log = (place.run / "log.txt").read_text()
        assert "Fatal Python error: Bus error" in log  # which says where, if not what to do
        # Python looks at threads that run on meanwhile, and may fail in that (seen once)
        assert "batches.py" in log or "Fatal Python error: Segmentation fault" in log
    finished = place.whole()["epoch"] + 1
    os.replace(copy, shard(place))
    place.go_on("--trainer.max_epochs", str(finished + 1)).succeeds()


@pytest.mark.slow
def test_deleted(place) -> None:
    """A training that has mapped its files ends as if they were there; the next start says which is missing."""
    running = place.fit("--trainer.max_epochs", "6")
    running.until((place.run / "checkpoints/last.ckpt").exists)
    shard(place).rename(place.folder / "train.h5")
    name = place.folder / "train.h5"
    running.succeeds()
    assert place.whole()["epoch"] == 5
    assert ".h5 is missing; delete the folder" in place.go_on("--trainer.max_epochs", "7").fails()
    name.rename(next(place.data.glob("digits-*")) / "train-00000-of-00001.h5")
    place.go_on("--trainer.max_epochs", "7").succeeds()
