"""The process in which a tool runs main.py: it gets the tool's signals and open files, and ends when it should."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError
from typing import TextIO

import numpy as np
import pytest
import yaml

import cli
import fit_and_test
from callbacks.prediction_store import OF_VALIDATION, PROBABILITIES, Predictions
from callbacks.run_folder import METRICS
from fit_and_test import Hopeless, experiment_file, finished_run, run_main

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


def test_a_signal_that_is_ignored_stays_so(said: TextIO) -> None:
    """As nohup ignores SIGHUP."""
    before, calls = signal.signal(signal.SIGHUP, signal.SIG_IGN), []

    def hung_up() -> bool:
        wait_until_it_runs(said)
        os.kill(os.getpid(), signal.SIGHUP)
        calls.append(None)
        return len(calls) == 2  # which is not asked of a run that is to pause

    try:
        with pytest.raises(Hopeless):  # and not SystemExit: it is not paused
            run_main([str(said.fileno())], [said.fileno()], hung_up)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_hopeless_run_is_ended(said: TextIO) -> None:
    def hopeless() -> bool:
        wait_until_it_runs(said)
        return True

    with pytest.raises(Hopeless):
        run_main([str(said.fileno())], [said.fileno()], hopeless)
    assert text_of(said) == f"runs ended by {signal.SIGTERM:d}"


def test_no_run_is_left_alone_by_an_error_of_its_judge(said: TextIO) -> None:
    def damaged() -> bool:
        wait_until_it_runs(said)
        raise ValueError("no history")

    with pytest.raises(ValueError, match="no history"):
        run_main([str(said.fileno())], [said.fileno()], damaged)
    assert text_of(said) == f"runs ended by {signal.SIGTERM:d}"


def test_a_run_that_fails_is_an_error(said: TextIO) -> None:
    with pytest.raises(CalledProcessError):
        run_main(["no number"])


def test_a_finished_run_is_that_of_its_settings_and_its_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three epochs, the second of which is the best: its test is done, its validation is of another epoch."""
    monkeypatch.chdir(tmp_path)
    config, run, commands = experiment_file("quickstart_digits"), Path("runs/quickstart_digits/a"), []
    for folder in ("checkpoints", "report"):
        (run / folder).mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(cli.settings(config, ["--trainer.max_epochs", "3"])))
    history = [{"epoch": epoch, "val/top1": top1} for epoch, top1 in enumerate((0.5, 0.7, 0.6), start=1)]
    (run / "history.json").write_text(json.dumps(history))
    (run / "checkpoints/last.ckpt").touch()
    (run / METRICS).touch()
    rows = np.arange(2)
    found = Predictions(np.eye(2, dtype=np.float32), rows, rows, ["a", "b"], "split", epoch=2)
    for name in (PROBABILITIES, OF_VALIDATION):
        found.save(run / name)
    monkeypatch.setattr(fit_and_test, "run_main", lambda arguments, *rest: commands.append(arguments))

    def finish(epochs: int, then: fit_and_test.Then) -> list[str]:
        commands.clear()
        assert finished_run(config, "a", ["--trainer.max_epochs", str(epochs)], then) == run
        return [command[command.index("--then") + 1] for command in commands]

    assert finish(3, "test") == []
    assert finish(3, "validate") == ["validate"]
    with pytest.raises(ValueError, match="a was begun with trainer.max_epochs 3, not 8"):
        finish(8, "test")  # figures of another length of training
    (run / METRICS).unlink()
    with pytest.raises(SystemExit):  # it is longer than it was begun, and would have written its test
        finish(8, "test")
    assert commands[0][:3] == ["fit", "--config", str(config)]
