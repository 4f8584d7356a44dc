"""Disks that are full or read-only: what is said, what stays, and that a run goes on once there is room."""

import os
import shutil
from pathlib import Path

import pytest


def remount(place, folder: Path, options: str) -> None:
    error = place.world.ask(do="mount", arguments=["-o", f"remount,{options}", str(folder)])
    assert not error, error


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_full_while_a_checkpoint_is_written(place) -> None:
    place.mount(place.run, "size=1800k")  # for two checkpoints, not for the third, which is to replace one
    error = place.fit("--trainer.max_epochs", "3").fails()
    assert "checkpoints/" in error
    assert "ckpt cannot be opened or written: no space left on device; make room" in error
    assert "fit --continue" in error
    assert place.whole()["epoch"] == 0
    remount(place, place.run, "size=8m")
    place.go_on().succeeds()
    assert place.whole()["epoch"] == 2
    assert place.epochs() == [1, 2, 3]
    place.start_anew("--trainer.max_epochs", "3").succeeds()
    assert place.same_as_anew()


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_full_while_a_set_is_packed(place, encoding: str) -> None:
    root = place.folder / "small"
    seen = place.mount(root, "size=400k")
    flags = ["--data.root", "small", "--data.encoding", encoding, "--trainer.max_epochs", "1"]
    error = place.fit(*flags).fails()
    assert "small" in error
    assert "no space left on device; make room" in error
    assert [name for name in left(seen) if not name.endswith(".lock")] == []
    assert not place.run.exists()
    remount(place, root, "size=20m")
    place.fit(*flags).succeeds()
    assert len([name for name in left(seen) if not name.endswith(".lock")]) == 1


def test_a_training_goes_on_without_its_diary(place) -> None:
    """Checkpoints have a disk of their own here; on that of the history there is room for the configuration alone."""
    seen = place.mount(place.run, "size=4k")
    place.mount(place.run / "checkpoints", "size=8m")
    printed = place.fit("--trainer.max_epochs", "3").succeeds()
    for file in ("log.txt", "history.json", "timings.json", "history.png", "sessions.json"):
        assert printed.count(f"{file} cannot be written") == 1
    assert printed.count("the run goes on without it") == 5
    assert place.whole()["epoch"] == 2
    assert left(seen) == [".lock", "checkpoints", "config.yaml", "log.txt"]
    remount(place, place.run, "size=1m")
    place.go_on("--trainer.max_epochs", "4").succeeds()
    assert place.epochs() == [4]
    assert "epoch 4/4" in (seen / "log.txt").read_text()


@pytest.mark.slow
def test_full_while_a_report_is_written(place) -> None:
    seen = place.mount(place.run, "size=4m")
    place.fit("--trainer.max_epochs", "1").succeeds()
    free = os.statvfs(seen)
    (seen / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize))
    error = place.start("main.py", "test", "--run", str(place.run)).fails()
    assert "report/probabilities.h5 cannot be opened or written: no space left on device" in error
    assert left(seen / "report") == []  # above all no metrics.json, which says that the run is tested
    (seen / "filler").unlink()
    assert "test top-1 = " in place.start("main.py", "test", "--run", str(place.run)).succeeds()


@pytest.mark.slow
def test_full_while_a_table_of_lightning_is_written(place) -> None:
    seen = place.mount(place.folder / "csv", "size=4k")
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "csv", "--trainer.log_every_n_steps", "1"]
    (seen / "filler").write_bytes(bytes(4096))
    error = place.fit("--trainer.max_epochs", "3", *logger).fails()
    assert "no space left on device; make room" in error
    (seen / "filler").unlink()
    remount(place, place.folder / "csv", "size=1m")
    place.fit("--trainer.max_epochs", "3", *logger, "--name", "b").succeeds()


@pytest.mark.slow
def test_a_packed_set_may_lie_on_a_read_only_disk(place) -> None:
    root = place.folder / "archive"
    seen = place.mount(root, "size=20m")
    shutil.copytree(place.data, seen, dirs_exist_ok=True)
    for cache in seen.rglob(".verified.json"):
        cache.unlink()
    remount(place, root, "ro")
    place.fit("--trainer.max_epochs", "1", "--data.root", "archive").succeeds()
    assert place.whole()["epoch"] == 0


def test_nothing_can_be_packed_into_a_read_only_folder(place) -> None:
    seen = place.mount(place.folder / "archive", "size=20m,ro")
    error = place.fit("--data.root", "archive").fails()
    assert "archive" in error
    assert "read-only file system" in error
    assert "--data.root" in error
    assert left(seen) == []
    assert not place.run.exists()


def test_runs_cannot_be_written(place) -> None:
    place.mount(place.folder / "runs", "size=1m,ro")
    error = place.fit().fails()
    assert "runs/quickstart_digits" in error
    assert "read-only file system; choose a folder" in error


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(place) -> None:
    """As systems do with one that fails."""
    folder = place.run / "checkpoints"
    seen = place.mount(folder, "size=8m")
    running = place.fit("--trainer.max_epochs", "500")
    running.until((seen / "last.ckpt").exists)
    running.until(
        lambda: not place.world.ask(do="mount", arguments=["-o", "remount,ro", str(folder)])
    )  # not while it writes
    error = running.fails()
    assert "read-only file system" in error
    assert "checkpoints/" in error
    remount(place, folder, "rw")
    finished = place.whole()["epoch"] + 1
    place.go_on("--trainer.max_epochs", str(finished + 1)).succeeds()
    assert place.epochs() == list(range(1, finished + 2))
