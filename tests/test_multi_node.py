"""The files of docs/multi_node, run here: two agents of torchrun as two machines, and SLURM as far as its variables."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import main

PROJECT = Path(main.__file__).parent
FIT = ["fit", "--config", str(PROJECT / "experiments/quickstart_digits.yaml")]
THEN = ["--then", "test"]
FIT += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4", "--trainer.accelerator", "cpu"]
FIT += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
SRUN = """#!/usr/bin/env bash
# Starts the tasks as SLURM would, all on this machine, the second of two on another "node" a second later.
shift
for task in 0 1; do
    SLURM_PROCID=$task SLURM_NODEID=$task SLURM_LOCALID=0 "$@" &
    sleep 1.1
done
wait -n && wait -n
"""
SLURM = {"NTASKS": "2", "NTASKS_PER_NODE": "1", "NNODES": "2", "NODELIST": "127.0.0.1", "JOB_ID": "31"}

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a user in the project's folder, whose shell finds its Python."""
    for name in ("main.py", "docs"):
        (tmp_path / name).symlink_to(PROJECT / name)
    (tmp_path / "bin").mkdir()
    for name, script in (("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n'), ("srun", SRUN)):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("LITVISION", "PL_"))}
    return own | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PATH": f"{tmp_path / 'bin'}:{own['PATH']}"}


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def assert_one_run_of_two_processes(folder: Path) -> None:
    """Although the processes did not begin at the same second."""
    (run,) = folder.glob("runs/quickstart_digits/*")
    assert json.loads((run / "report/metrics.json").read_text())["samples"] == 450
    (session,) = json.loads((run / "sessions.json").read_text())
    assert session["processes"] == 2
    (record,) = json.loads((run / "history.json").read_text())
    assert record["step"] == 4


def agents(folders: list[Path], environment: dict[str, str], *flags: str, fail: bool = False) -> None:
    """Two agents of torchrun, each in the folder of its machine."""
    port = free_port()
    nodes = [
        subprocess.Popen(
            ["docs/multi_node/torchrun.sh", *FIT, *flags],
            cwd=folder,
            env=environment | {"HEAD": "127.0.0.1", "PORT": port, "NODES": "2", "NODE_RANK": str(n), "PROCESSES": "1"},
        )
        for n, folder in enumerate(folders)
    ]
    try:
        assert [bool(node.wait(timeout=300)) for node in nodes] == [fail, fail]
    finally:
        for node in nodes:
            node.terminate()


def test_torchrun_with_a_shared_file_system(tmp_path: Path, environment: dict[str, str]) -> None:
    agents([tmp_path, tmp_path], environment, *THEN)
    assert len(list(tmp_path.glob("data/digits-*"))) == 1
    assert_one_run_of_two_processes(tmp_path)


def test_torchrun_with_separate_file_systems(tmp_path: Path, environment: dict[str, str]) -> None:
    """Each machine packs its own data; the run is on the first."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("main.py", "docs"):
        (other / name).symlink_to(PROJECT / name)
    agents([tmp_path, other], environment)
    for folder in (tmp_path, other):
        assert len(list(folder.glob("data/digits-*"))) == 1
    (best,) = tmp_path.glob("runs/*/*/checkpoints/best.ckpt")
    assert not (other / "runs").exists()
    before = best.with_name("last.ckpt").read_bytes()
    longer = ["--continue", str(best.parent.parent.relative_to(tmp_path)), "--trainer.max_epochs", "2"]
    shutil.copytree(tmp_path / "runs", other / "runs")
    agents([tmp_path, other], environment, *longer)
    assert best.with_name("last.ckpt").read_bytes() != before
    longer[-1] = "3"
    agents([tmp_path, other], environment, *longer, fail=True)  # the other machine has the first epoch alone
    assert "the processes would begin at different steps, 8, 4; copy" in (best.parent.parent / "log.txt").read_text()


def test_the_batch_script_of_slurm(tmp_path: Path, environment: dict[str, str]) -> None:
    assert shutil.which("srun", path=environment["PATH"]) == str(tmp_path / "bin/srun")
    slurm = {f"SLURM_{name}": value for name, value in SLURM.items()} | {"MASTER_PORT": free_port()}
    script = ["bash", "docs/multi_node/fit.sbatch", *FIT, *THEN]
    subprocess.run(script, cwd=tmp_path, env=environment | slurm, check=True, timeout=300)
    assert_one_run_of_two_processes(tmp_path)
