"""Runs that are paused by a signal, changed, and continued; and what `--resume auto` finds."""

import json
import os
import shlex
import shutil
import signal
import sys
from contextlib import chdir, nullcontext
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from pytorch_lightning import LightningModule, Trainer

import callbacks as cb
import main
from callbacks import last_checkpoint, run_folder
from lightning_modules import Classifier

CONFIG = Path(main.__file__).parent / "experiments/quickstart_digits.yaml"
FIT = ["fit", "--config", str(CONFIG), "--trainer.max_epochs", "2"]
STEPS = 1212 // 64  # an epoch
RUNS = Path("runs/quickstart_digits")
MACHINE = ["--trainer.accelerator", "cpu"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go to tmp_path/runs; the digits are packed already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(shards)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs main.py; what it prints."""

    def run(*args: str) -> str:
        quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        monkeypatch.setattr(sys, "argv", ["main.py", *args, *MACHINE, *quiet])
        capsys.readouterr()
        main.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch):
    """Sends a signal to the run itself while a hook runs after a given step, or in a given batch after it."""

    def at(step: int, *numbers: int, hook: str = "on_train_batch_end", batch: int | None = None) -> None:
        original = getattr(cb.TrainingMonitor, hook)

        def disturbed(self: cb.TrainingMonitor, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
            original(self, trainer, pl_module, *args)
            if trainer.global_step == step and not trainer.sanity_checking and (batch is None or args[-1] == batch):
                monkeypatch.setattr(cb.TrainingMonitor, hook, original)
                for number in numbers:
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(cb.TrainingMonitor, hook, disturbed)

    return at


def state(run: Path, name: str = "last") -> dict:
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)


def history(run: Path) -> list[dict]:
    return json.loads((run / "history.json").read_text())


def same(one: Path, other: Path) -> bool:
    weights = [state(run)["state_dict"] for run in (one, other)]
    return history(one) == history(other) and all(
        torch.equal(weights[0][name], weights[1][name]) for name in weights[0]
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with chdir(folder):
        main.run_command([*FIT, "--data.root", str(shards), "--name", "whole", *MACHINE])
    return folder / RUNS / "whole"


@pytest.mark.parametrize(
    ("number", "step", "hook", "paused_after"),
    [
        (signal.SIGINT, 5, "on_train_batch_end", 5),
        (signal.SIGTERM, STEPS, "on_train_batch_end", STEPS),
        (signal.SIGUSR1, STEPS, "on_validation_start", STEPS),
        (signal.SIGTERM, STEPS + 3, "on_train_batch_end", STEPS + 3),
    ],
)
def test_a_paused_run_ends_where_an_undisturbed_one_does(
    command, signalled, whole: Path, number: int, step: int, hook: str, paused_after: int
) -> None:
    signalled(step, number, hook=hook)
    printed = command(*FIT, "--name", "a", "--then", "validate").strip().splitlines()
    assert f"after step {paused_after}; nothing is lost" in printed[-3]
    assert state(RUNS / "a")["global_step"] == paused_after
    assert len(history(RUNS / "a") if paused_after >= STEPS else []) == paused_after // STEPS
    program, script, *args = shlex.split(printed[-1])
    assert (program, script) == ("python", "main.py")
    command(*args)
    assert same(RUNS / "a", whole)
    assert (RUNS / "a/report/val_probabilities.h5").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("other", "pauses"), [(last_checkpoint.PAUSE, True), (last_checkpoint.SAVE, False)])
def test_a_process_pauses_where_another_one_was_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: int, pauses: bool
) -> None:
    monkeypatch.setattr(last_checkpoint, "SIGNALS", ())
    saved = []
    trainer = SimpleNamespace(
        **{"current_epoch": 3, "max_epochs": 9, "global_step": 30, "max_steps": -1, "should_stop": False},
        **{"world_size": 2, "is_global_zero": False, "default_root_dir": tmp_path},
        fit_loop=SimpleNamespace(
            epoch_progress=SimpleNamespace(current=None), epoch_loop=SimpleNamespace(), restarting=False
        ),
        strategy=SimpleNamespace(
            root_device=torch.device("cpu"),
            reduce=lambda mine, reduce_op: getattr(torch.stack([mine, torch.tensor(other)]), reduce_op)(),
        ),
        save_checkpoint=lambda path, weights_only: saved.append(path.name),
    )
    callback = cb.LastCheckpoint(every_minutes=0)  # so that this process wishes to save
    callback.on_train_start(trainer, None)
    with pytest.raises(cb.Paused) if pauses else nullcontext():
        callback.on_train_epoch_end(trainer, None)
    assert saved == ["newest.ckpt"]


def test_the_second_ctrl_c_stops_at_once(command, signalled) -> None:
    signalled(5, signal.SIGINT, signal.SIGINT)
    with pytest.raises(SystemExit) as stopped:
        command(*FIT, "--name", "a")
    assert stopped.value.code == 1
    assert not (RUNS / "a/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize("subcommand", ["test", "predict"])
def test_sigterm_ends_an_evaluation_at_once(
    command, whole: Path, monkeypatch: pytest.MonkeyPatch, subcommand: str
) -> None:
    batches = []

    def signalled(self: Classifier, batch: object, batch_idx: int) -> None:
        batches.append(batch_idx)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Classifier, f"{subcommand}_step", signalled)
    with pytest.raises(SystemExit) as stopped:
        command(subcommand, "--run", str(whole), "--name", "other")
    assert stopped.value.code == 128 + signal.SIGTERM
    assert batches == [0]
    assert not list(Path("runs").rglob("report"))


def test_nothing_pauses_with_half_a_gradient(command, signalled) -> None:
    signalled(2, signal.SIGINT, batch=8)  # sent in the first batch of the third step, of four batches each
    command(*FIT, "--name", "a", "--trainer.accumulate_grad_batches", "4")
    assert state(RUNS / "a")["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"] == 12


def test_a_changed_run_goes_on_as_one_curve(command, signalled) -> None:
    signalled(5, signal.SIGINT)
    command(*FIT, "--name", "a")
    plain = ["--trainer.callbacks", "null"]  # without the schedule
    command("fit", "--continue", "runs/quickstart_digits/a", "--lr", "0.001", "--trainer.max_epochs", "3", *plain)
    assert [record["epoch"] for record in history(RUNS / "a")] == [1, 2, 3]
    assert [record["lr"] for record in history(RUNS / "a")] == [0.001] * 3
    first, second = json.loads((RUNS / "a/sessions.json").read_text())
    assert first["changed"] == {}
    assert second["changed"]["model.init_args.optimizer.init_args.lr"] == [0.05, 0.001]
    assert second["changed"]["trainer.max_epochs"] == [2, 3]
    assert second["begun"] == pytest.approx(5 / STEPS, abs=1e-4)
    assert first["seconds"] > 0
    pixels = np.asarray(Image.open(RUNS / "a/history.png").convert("RGB")).reshape(-1, 3)
    assert (np.abs(pixels.astype(int) - (0x22, 0x88, 0x33)).sum(axis=1) < 30).sum() > 100  # the marks


def test_a_checkpoint_each_few_minutes_and_the_one_before(command, signalled) -> None:
    flags = ["--trainer.callbacks+", "callbacks.LastCheckpoint", "--trainer.callbacks.every_minutes", "0"]
    signalled(5, signal.SIGINT)
    command(*FIT, "--name", "a", *flags)
    assert [state(RUNS / "a", name)["global_step"] for name in ("previous", "last")] == [4, 5]
    assert {path.name for path in (RUNS / "a/checkpoints").iterdir()} == {
        "previous.ckpt",
        "last.ckpt",
    }


def test_minutes_pass_between_checkpoints(command, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, saved, save = count(step=20), [], cb.LastCheckpoint._save  # 20 seconds from each look to the next

    def noted(self: cb.LastCheckpoint, trainer: Trainer) -> None:
        saved.append(trainer.global_step)
        save(self, trainer)

    monkeypatch.setattr(cb.LastCheckpoint, "_save", noted)
    monkeypatch.setattr("callbacks.last_checkpoint.time", SimpleNamespace(monotonic=lambda: next(clock)))
    flags = ["--trainer.callbacks+", "callbacks.LastCheckpoint", "--trainer.callbacks.every_minutes", "1"]
    command(*FIT, "--name", "a", *flags, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "8")
    assert saved == [3, 6, 8]  # the last is the epoch's


def test_a_checkpoint_each_few_epochs(command) -> None:
    flags = ["--trainer.callbacks+", "callbacks.LastCheckpoint", "--trainer.callbacks.every_epochs", "2"]
    command(*FIT, "--name", "a", *flags, "--trainer.max_epochs", "3", "--trainer.limit_train_batches", "2")
    assert [state(RUNS / "a", name)["epoch"] for name in ("previous", "last")] == [1, 2]


def test_resume_auto_passes_over_damaged_checkpoints(command, signalled, whole: Path) -> None:
    fit = [*FIT, "--name", "a", "--resume", "auto", "--trainer.callbacks+", "callbacks.LastCheckpoint"]
    fit += ["--trainer.callbacks.every_minutes", "0"]
    signalled(STEPS + 5, signal.SIGINT)
    command(*fit)  # there is nothing to resume
    folder = RUNS / "a/checkpoints"
    last = (folder / "last.ckpt").read_bytes()
    middle = len(last) // 2  # a weight
    (folder / "last.ckpt").write_bytes(last[:middle] + bytes([last[middle] ^ 1]) + last[middle + 1 :])
    signalled(STEPS + 6, signal.SIGINT)
    assert "checksum" in command(*fit)
    assert [state(RUNS / "a", name)["global_step"] for name in ("previous", "last")] == [STEPS + 5, STEPS + 6]
    (folder / "last.ckpt").write_bytes(last[:middle])
    (folder / "previous.ckpt").write_bytes(b"")
    printed = command(*fit)  # from best.ckpt
    assert printed.count("passed over") == 2
    assert same(RUNS / "a", whole)


def test_a_run_that_trains_elsewhere_is_not_continued(
    command, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    shutil.copytree(whole, RUNS / "a")
    with FileLock(RUNS / "a" / run_folder.LOCK), pytest.raises(SystemExit):
        command("fit", "--continue", str(RUNS / "a"), "--trainer.max_epochs", "3")
    assert "another process trains in" in capsys.readouterr().err
    assert same(RUNS / "a", whole)
    command("fit", "--continue", str(RUNS / "a"), "--trainer.max_epochs", "3")
    assert state(RUNS / "a")["global_step"] == 3 * STEPS


def test_resume_auto_begins_again_where_no_checkpoint_is_whole(command, signalled, whole: Path) -> None:
    signalled(5, signal.SIGINT)
    command(*FIT, "--name", "a")
    (RUNS / "a/checkpoints/last.ckpt").write_bytes(b"PK")
    assert "passed over" in command(*FIT, "--name", "a", "--resume", "auto")
    assert same(RUNS / "a", whole)


def test_resume_auto_takes_the_newest_run_of_the_same_command() -> None:
    for name, day, command in (("a", 2, "fit"), ("b", 3, "fit"), ("c", 1, "fit"), ("d", 4, "fit --lr 1")):
        (RUNS / name).mkdir(parents=True)
        session = {"command": f"main.py {command}", "started": f"2026-01-0{day}T00:00:00+00:00"}
        (RUNS / name / "sessions.json").write_text(json.dumps([session, {"command": "main.py fit --run x"}]))
    assert run_folder.begun("quickstart_digits", None, "main.py fit --resume auto") == RUNS / "b"


def test_resume_auto_finds_the_run_of_the_same_command(command, signalled) -> None:
    signalled(5, signal.SIGINT)
    command(*FIT, "--resume", "auto")
    (run,) = RUNS.iterdir()
    command(*FIT, "--data.batch_size", "128", "--trainer.limit_train_batches", "1", "--resume", "auto")  # another one
    assert len(list(RUNS.iterdir())) == 2
    command(*FIT, "--resume", "auto")
    assert len(list(RUNS.iterdir())) == 2
    assert state(run)["global_step"] == 2 * STEPS
    before = (run / "checkpoints/last.ckpt").read_bytes(), (run / "history.json").read_bytes()
    command(*FIT, "--resume", "auto")  # it is finished
    assert ((run / "checkpoints/last.ckpt").read_bytes(), (run / "history.json").read_bytes()) == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["test", "--run", "a", "--resume", "auto"], "--run FOLDER"),
        (["fit", "--continue", "a", "--resume", "auto"], "leave out"),
        (["fit", "--continue", "nowhere"], "nowhere is not a run's folder"),
        (["fit", "--resume", "always"], "auto"),
    ],
)
def test_contradictions_are_refused(command, capsys: pytest.CaptureFixture[str], args: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(*args)
    assert stopped.value.code in (1, 2)
    assert words in capsys.readouterr().err
