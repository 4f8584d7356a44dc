"""A process that fails ends its run within a minute; what it said is what is shown, and nothing of it is left."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import main
import processes

PROJECT = Path(main.__file__).parent
FAIL = """
import os, signal, time
from pytorch_lightning import Callback

class Fail(Callback):
    '''Ends one process in the third step, or lets it say who it is and wait.'''

    def __init__(self, rank: int, how: str) -> None:
        self.rank, self.how = rank, how

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.how == "kill, and the other is deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal = lambda *args: None  # Lightning would give the signal back
        if (trainer.global_rank, trainer.global_step) == (self.rank, 2):
            print("ends at", time.time(), flush=True)
            if self.how == "raise":
                raise ValueError("picture 17 is upside down")
            if self.how.startswith("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


def started(folder: Path, shards: Path, rank: int, how: str, torchrun: bool = False, *flags: str) -> subprocess.Popen:
    """`fit` in two processes, one of which fails; all are in a process group of their own."""
    (folder / "failing.py").write_text(FAIL)
    fit = [str(PROJECT / "main.py"), "fit", "--config", str(PROJECT / "experiments/quickstart_digits.yaml")]
    fit += ["--data.root", str(shards), "--name", "a", "--trainer.enable_progress_bar", "false"]
    fit += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    fit += ["--trainer.callbacks+=failing.Fail", f"--trainer.callbacks.rank={rank}", f"--trainer.callbacks.how={how}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LITVISION")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    return subprocess.Popen(
        [*(TORCHRUN if torchrun else [sys.executable]), *fit, *flags],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def printed_by(process: subprocess.Popen) -> str:
    """What was printed, once all processes have ended; those that do not are killed."""
    try:
        return process.communicate(timeout=300)[0]  # output ends with the last process that holds it
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def ended(process: subprocess.Popen) -> str:
    """The same of processes that must end within a minute of the failure."""
    printed = printed_by(process)
    failed_at = float(re.search(r"ends at ([\d.]+)", printed)[1])
    assert time.time() - failed_at < 60
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("torchrun", [False, True])
def test_an_error_of_one_process_is_shown_once(tmp_path: Path, shards: Path, torchrun: bool) -> None:
    process = started(tmp_path, shards, 1, "raise", torchrun)
    printed = ended(process)
    assert process.returncode == 1
    assert re.findall("^error: .*", printed, re.MULTILINE) == ["error: rank 1: picture 17 is upside down"]


@pytest.mark.slow
def test_an_error_of_all_processes_is_shown_once(tmp_path: Path, shards: Path) -> None:
    printed = printed_by(started(tmp_path, shards, 1, "wait", False, "--data.batch_size", "63"))
    errors = re.findall("^error: .*", printed, re.MULTILINE)
    assert errors == ["error: batch_size 63 does not divide among 2 processes"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("torchrun", [False, True])
def test_a_killed_process_ends_the_others(tmp_path: Path, shards: Path, rank: int, torchrun: bool) -> None:
    process = started(tmp_path, shards, rank, "kill", torchrun)
    printed = ended(process)
    assert process.returncode != 0
    assert "gloo/" not in printed
    if torchrun:  # which has its own words
        assert f"Signal {signal.SIGKILL.value} (SIGKILL) received" in printed
    elif rank:
        assert re.findall("^error: rank 1 was killed by SIGKILL", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "error: rank 1 was killed by SIGKILL"),
        ("sys.exit(128 + signal.SIGTERM)", "error: rank 1 was killed by SIGTERM"),  # as in a test
        ("sys.exit(1)", ""),
    ],
)
def test_who_could_not_say_why_it_ended_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: str, told: str
) -> None:
    launched = subprocess.Popen([sys.executable, "-c", f"import os, signal, sys; {end}"])
    codes = []
    monkeypatch.setattr(processes, "_launched", [launched])
    monkeypatch.setattr(processes, "GRACE", 0.0)
    monkeypatch.setattr(os, "_exit", codes.append)
    processes._end_with_launched()
    assert codes == [1]
    assert capsys.readouterr().err.partition(";")[0] == told


@pytest.mark.slow
def test_a_sigterm_that_came_too_early_changes_nothing(tmp_path: Path, shards: Path) -> None:
    """Before the connection was lost, a training takes it for the wish to pause; torchrun waits half a minute."""
    printed = ended(started(tmp_path, shards, 1, "kill, and the other is deaf", torchrun=True))
    assert "gloo/" not in printed
    assert f"Signal {signal.SIGKILL.value} (SIGKILL) received" in printed


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_process_that_hangs(tmp_path: Path, shards: Path) -> None:
    process = started(tmp_path, shards, 1, "wait")
    for line in process.stdout:
        if line.startswith("ends at"):
            break
    process.kill()
    began = time.monotonic()
    printed_by(process)  # the other held its output
    assert time.monotonic() - began < 60


def test_a_lost_connection_is_named_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    lost = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:701.")
    began = time.monotonic()
    printed = main.message(processes.first_error(lost))
    assert time.monotonic() - began >= 0.2
    assert printed.startswith("error: the connection to another process of this run is lost")
    assert len(printed.splitlines()) <= 5
    own = ValueError("picture 17 is upside down")
    assert processes.first_error(own) is own
