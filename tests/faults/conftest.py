"""Small, full and read-only disks, and commands that run on them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import Digits
from tensor_file import read_tensors

WORLD = Path(__file__).with_name("world.py")
PROJECT = WORLD.parents[2]
SMALL = [
    *("--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--model", "lightning_modules.CifarResNet"),
    *("--model.depth", "8", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1"),
]
QUIET = [
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false"),
]


class Running:
    """A command under way."""

    def __init__(self, world: "World", pid: int, output: Path) -> None:
        self.world, self.pid, self.output = world, pid, output
        self.code: int | None = None

    @property
    def printed(self) -> str:
        """So far."""
        return self.output.read_text(encoding="utf-8")

    def until(self, happened: Callable[[], object], seconds: float = 120) -> None:
        """Wait for something to happen while the command runs."""
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, f"it did not happen:\n{self.printed}"
            assert Path(f"/proc/{self.pid}/stat").read_text().split()[2] != "Z", self.printed
            time.sleep(0.01)

    def children(self) -> list[int]:
        """Processes that the command has started."""
        return [int(n) for n in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def end(self) -> int:
        """Wait for its end: the exit status, negative if a signal killed it."""
        self.code = self.world.ask(do="wait", pid=self.pid)
        return self.code

    def fails(self) -> str:
        """The message with which it ends: at most five lines, and no traceback."""
        code = self.end()
        assert code == 1, f"it ended with {code}:\n{self.printed}"
        assert "Traceback" not in self.printed, self.printed
        message = self.printed[self.printed.index("error: ") :].strip()
        assert len(message.splitlines()) <= 5, message
        return message

    def succeeds(self) -> str:
        """What it has printed at its end."""
        code = self.end()
        assert code == 0, f"it ended with {code}:\n{self.printed}"
        assert "Traceback" not in self.printed, self.printed
        return self.printed


class World:
    """Where commands run; ``why_not`` says why it has no disks of its own, if that is so."""

    def __init__(self) -> None:
        self.why_not = ""
        inside = ["unshare", "--user", "--map-root-user", "--mount"]
        try:
            subprocess.run(
                [*inside, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            inside, self.why_not = [], f"this system mounts nothing for a user: {getattr(error, 'stderr', error)}"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [*inside, sys.executable, str(WORLD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout.readline().strip() == "ready"

    def ask(self, **wish: object) -> object:
        """Ask, and wait for the answer."""
        print(json.dumps(wish), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """Let go."""
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """One for all tests: it has imported the project."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the tests look at processes as Linux shows them, under /proc")
    world = World()
    yield world
    world.close()


class Place:
    """A folder of a test's own in which commands run; ``data`` holds the packed digits, ``run`` is where runs go."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.data, self.run = folder / "data", folder / "runs/quickstart_digits/a"
        self.started: list[Running] = []

    def start(self, *program: str, fault: str = "") -> Running:
        """Start one of the project's programs."""
        output = self.folder / f"output{len(self.started) + 1}.txt"
        output.touch()
        pid = self.world.ask(do="start", program=program, folder=str(self.folder), output=str(output), fault=fault)
        self.started.append(Running(self.world, pid, output))
        return self.started[-1]

    def fit(self, *flags: str, fault: str = "") -> Running:
        """Start a short training of the digits, in ``run``."""
        return self.start("main.py", "fit", *SMALL, *QUIET, "--name", "a", *flags, fault=fault)

    def go_on(self, *flags: str, fault: str = "") -> Running:
        """Continue it."""
        return self.start("main.py", "fit", "--run", str(self.run), *flags, fault=fault)

    def start_anew(self, *flags: str) -> Running:
        """Start the same training again, undisturbed, in a folder of its own."""
        return self.fit("--name", "anew", *flags)

    def same_as_anew(self) -> bool:
        """Whether the run has ended with the weights of the undisturbed one."""
        anew = read_tensors(self.run.with_name("anew") / "checkpoints/last.ckpt", "")["state_dict"]
        return all(torch.equal(tensor, anew[name]) for name, tensor in self.checkpoint()["state_dict"].items())

    def mount(self, folder: Path, options: str) -> Path:
        """A disk in memory at a folder; how the test sees it."""
        if self.world.why_not:
            pytest.skip(self.world.why_not)
        self.seen(folder).mkdir(parents=True, exist_ok=True)
        error = self.world.ask(do="mount", arguments=["-t", "tmpfs", "-o", options, "tmpfs", str(folder)])
        assert not error, error
        return self.seen(folder)

    def seen(self, path: Path) -> Path:
        """A path of the world's as the test sees it: what is mounted there is not mounted here."""
        return Path(f"/proc/{self.world.process.pid}/root{path}")

    def checkpoint(self, name: str = "last") -> dict[str, Any]:
        """A checkpoint of the run, read as the project reads it."""
        return read_tensors(self.seen(self.run) / f"checkpoints/{name}.ckpt", "it ought to be whole")

    def whole(self) -> dict[str, Any]:
        """The last checkpoint; every one of the run is whole and finite, and nothing half-written lies beside them."""
        files = sorted(path.name for path in (self.seen(self.run) / "checkpoints").iterdir())
        assert not [name for name in files if not name.endswith(".ckpt")], files
        for name in files:
            weights = self.checkpoint(name.removesuffix(".ckpt"))["state_dict"].values()
            assert all(tensor.isfinite().all() for tensor in weights if tensor.is_floating_point())
        return self.checkpoint()

    def epochs(self) -> list[int]:
        """Those of the history."""
        return [record["epoch"] for record in json.loads((self.seen(self.run) / "history.json").read_text())]


@pytest.fixture
def place(world: World, tmp_path: Path, shards: Path) -> Iterator[Place]:
    """Where a test's commands run; its data are a copy, which may be damaged. Nothing goes on running after it."""
    packed = Digits(root=str(shards)).folder  # other tests may have packed more
    shutil.copytree(packed, tmp_path / "data" / packed.name)
    place = Place(world, tmp_path)
    yield place
    for running in place.started:
        if running.code is None:
            os.kill(running.pid, signal.SIGKILL)
            running.end()
