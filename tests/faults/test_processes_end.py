"""Loader processes and runs that are killed, and memory that runs out."""

import os
import signal
import time
from pathlib import Path

import pytest

WORKERS = ("--data.num_workers", "2")


def goes_on(place) -> None:
    """One more epoch, from the last checkpoint."""
    finished = place.whole()["epoch"] + 1
    place.go_on("--trainer.max_epochs", str(finished + 1)).succeeds()
    assert place.epochs() == list(range(1, finished + 2))


def test_a_loader_process_is_killed(place) -> None:
    running = place.fit("--trainer.max_epochs", "500", *WORKERS)
    running.until((place.run / "checkpoints/last.ckpt").exists)
    os.kill(running.children()[0], signal.SIGKILL)
    error = running.fails()
    assert "was killed, as the system does when memory runs out" in error
    assert "fewer --data.num_workers" in error
    assert "fit --continue" in error
    goes_on(place)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_signal_to_all_processes_of_a_run_pauses_it(place, number: int) -> None:
    """As torchrun and SLURM send it."""
    running = place.fit("--trainer.max_epochs", "500", *WORKERS)
    running.until((place.run / "checkpoints/last.ckpt").exists)
    processes = [*running.children(), running.pid]
    assert len(processes) == 1 + 2 + 2  # those of training and of validation
    for process in processes:
        os.kill(process, number)
    assert "nothing is lost" in running.succeeds()
    goes_on(place)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("memory_runs_out_in_a_worker", "memory is not enough for 1.00 EiB more; take a smaller --data.batch_size"),
        pytest.param(
            "memory_is_called_full_by_the_system",
            "was killed, as the system does when memory runs out",
            marks=pytest.mark.slow,
        ),
        pytest.param("a_worker_ends", "or ended by itself", marks=pytest.mark.slow),
    ],
)
def test_a_loader_process_ends(place, fault: str, words: str) -> None:
    place.fit("--trainer.max_epochs", "1", *WORKERS).succeeds()
    error = place.go_on("--trainer.max_epochs", "500", fault=fault).fails()
    assert words in error
    assert "--data.num_workers" in error
    assert "fit --continue" in error
    goes_on(place)


@pytest.mark.slow
def test_memory_runs_out(place) -> None:
    place.fit("--trainer.max_epochs", "1").succeeds()
    error = place.go_on("--trainer.max_epochs", "500", fault="memory_runs_out").fails()
    assert "memory is not enough for 1.00 EiB more; take a smaller --data.batch_size" in error
    goes_on(place)


def test_the_run_is_killed(place) -> None:
    """As the system does when memory runs out, or a power cut: nothing can be said, and nothing is lost."""
    running = place.fit("--trainer.max_epochs", "500", *WORKERS)
    running.until((place.run / "checkpoints/last.ckpt").exists)
    children = running.children()
    os.kill(running.pid, signal.SIGKILL)
    assert running.end() == -signal.SIGKILL
    for leftover in (place.run / "checkpoints").glob("*.partial"):
        assert leftover.name.removesuffix(".partial").endswith(".ckpt")  # replaced by the next save, never read
        leftover.unlink()
    goes_on(place)
    deadline = time.monotonic() + 30  # loader processes look every five seconds whether the run is there
    while any(map(is_alive, children)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_the_loss_is_no_number(place) -> None:
    place.fit("--trainer.max_epochs", "1").succeeds()
    error = place.go_on("--trainer.max_epochs", "3", "--model.optimizer.lr", "1e30").fails()
    assert "the loss is nan in epoch 2, step" in error
    assert "Lower the learning rate" in error
    assert place.whole()["epoch"] == 0  # finite weights
    place.go_on("--trainer.max_epochs", "3", "--model.optimizer.lr", "0.01").succeeds()
    assert place.epochs() == [1, 2, 3]
