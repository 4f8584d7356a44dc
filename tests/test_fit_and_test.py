"""The process in which a tool runs main.py: it gets the tool's signals and open files, and ends when it should."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError
from typing import TextIO

import pytest

import fit_and_test
from fit_and_test import Hopeless, run_main

STUB = """
import os, signal, sys, time

def end(number, frame):
    os.write(held, b" ended by %d" % number)
    sys.exit()

held = int(sys.argv[1])
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGUSR1, end)
os.write(held, b"runs")
time.sleep(20)
"""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """An open file, in which a main.py that only waits says what happens to it."""
    (tmp_path / "main.py").write_text(STUB)
    monkeypatch.setattr(fit_and_test, "PROJECT", tmp_path)
    with (tmp_path / "said.txt").open("w+") as file:
        yield file


def text_of(file: TextIO) -> str:
    file.seek(0)
    return file.read()


def wait_until_it_runs(file: TextIO) -> None:
    end = time.monotonic() + 15
    while not text_of(file):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_signal_is_passed_on_and_ends_the_tool(said: TextIO, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGUSR1)

    def interrupted() -> bool:
        wait_until_it_runs(said)
        os.kill(os.getpid(), signal.SIGUSR1)
        return False

    with pytest.raises(SystemExit):
        run_main([str(said.fileno())], [said.fileno()], interrupted)
    assert text_of(said) == f"runs ended by {signal.SIGUSR1:d}"
    assert capsys.readouterr().out == "paused; the same command goes on\n"
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_hopeless_run_is_ended(said: TextIO) -> None:
    def hopeless() -> bool:
        wait_until_it_runs(said)
        return True

    with pytest.raises(Hopeless):
        run_main([str(said.fileno())], [said.fileno()], hopeless)
    assert text_of(said) == f"runs ended by {signal.SIGTERM:d}"


def test_a_run_that_fails_is_an_error(said: TextIO) -> None:
    with pytest.raises(CalledProcessError):
        run_main(["no number"])
