"""Dashboards: what loggers get of real runs, read back from the files they wrote."""

import csv
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h5py
import numpy as np
import pytest
import torch
import wandb
import yaml
from PIL import Image

import main
from callbacks import Paused, run_loggers
from callbacks.dashboard import mixtures
from callbacks.prediction_store import Predictions
from callbacks.wandb_run import resume_or_begin

PROJECT = Path(main.__file__).parent
FAST = ["--data.image_size", "8", "--trainer.limit_train_batches", "4", "--trainer.log_every_n_steps", "2"]
Sessions = list[list[dict[str, Any]]]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUIET += ["--trainer.enable_model_summary", "false"]


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Iterator[Path]:
    """A folder with packed digits, and a machine that knows no key of W&B."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "data").symlink_to(shards)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(folder))
        patch.setenv("NETRC", str(folder / "none"))
        patch.chdir(folder)
        main.quieten()
        wandb.teardown()  # it remembers the environment of its first use
        yield folder
        wandb.teardown()


def fit(name: str, *args: str, epochs: int = 1, then: tuple[str, ...] = ()) -> Path:
    config = str(PROJECT / "experiments/quickstart_digits.yaml")
    flags = ["--trainer.max_epochs", str(epochs), *FAST, *QUIET, *args]
    main.run_command(["fit", "--config", config, "--name", name, *then, *flags])
    return Path("runs/quickstart_digits", name)


@pytest.fixture(scope="module")
def run(workplace: Path) -> Path:
    """Two epochs and a test, then a third epoch, on W&B and in a table."""
    folder = fit("a", "--logger", "wandb,csv", epochs=2, then=("--then", "test"))
    main.run_command(["fit", "--run", str(folder), "--trainer.max_epochs", "3"])
    return folder


@pytest.fixture(scope="module")
def read(run: Path) -> Sessions:
    """That run on W&B: the training, the test, the third epoch."""
    return sessions(run)


def sessions(run: Path) -> Sessions:
    """The records of each session on W&B, in the order in which they began, as wandb reads them."""
    found = []
    for folder in (run / "wandb").glob("*run-*"):
        if not folder.is_symlink():
            read = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
            printed = subprocess.run(read, capture_output=True, text=True, check=True).stdout
            records = [{"folder": folder}, *map(json.loads, printed.splitlines())]
            found.append((of(records, "run")[0]["start_time"], records))
    return [records for _, records in sorted(found, key=lambda pair: pair[0])]


def of(records: list[dict[str, Any]], kind: str) -> list[Any]:
    return [record[kind] for record in records if record.get("type") == kind]


def logged(records: list[dict[str, Any]], name: str) -> list[Any]:
    """What was logged under a name, in order."""
    return [item[name] for item in (record["item"] for record in of(records, "history")) if name in item]


def pictures(records: list[dict[str, Any]], name: str) -> list[np.ndarray]:
    (files,) = logged(records, f"{name}.filenames")
    return [np.asarray(Image.open(records[0]["folder"] / "files" / file)) for file in files]


def table(records: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (file,) = logged(records, f"{name}.path")
    return json.loads((records[0]["folder"] / "files" / file).read_text())


def dashboard_lines(run: Path) -> list[str]:
    """What the run's log says of W&B."""
    lines = (run / "log.txt").read_text().splitlines()
    return [line[line.index("W&B") :] for line in lines if " W&B" in line]


def test_configuration_curves_and_speed(run: Path, read: Sessions) -> None:
    fitted, tested, continued = read
    assert of(fitted, "run")[0]["project"] == "litvision"
    assert of(fitted, "run")[0]["run_group"] == "quickstart_digits"
    assert of(fitted, "run")[0]["display_name"] == "quickstart_digits/a"
    (config,) = (record["update"] for record in of(continued, "config"))
    assert config == yaml.safe_load((run / "config.yaml").read_text())
    history, timings = (json.loads((run / name).read_text()) for name in ("history.json", "timings.json"))
    for records, epochs in ((fitted, history[:2]), (continued, history[2:])):
        for name in ("train/loss", "train/top1", "val/loss", "val/top1"):
            assert logged(records, name) == pytest.approx([epoch[name] for epoch in epochs])
        assert logged(records, "lr")[-1] == epochs[-1]["lr"]
    for name in ("images_per_second", "data_wait"):
        assert logged(fitted, f"speed/{name}") == [timing[name] for timing in timings[:2]]
        assert all(timing[name] > 0 for timing in timings)
    assert len(logged(fitted, "lr")) == 4  # every second step
    assert logged(tested, "test/top1") == [json.loads((run / "report/metrics.json").read_text())["test/top1"]]


def test_sessions_are_one_run_whose_steps_go_on(read: Sessions) -> None:
    assert len({of(records, "run")[0]["run_id"] for records in read}) == 1
    assert all(of(records, "run")[0]["resume"] for records in read)
    steps = [step for records in read for step in logged(records, "_step")]
    assert steps == sorted(steps)
    assert steps[-1] == 12
    assert all(of(records, "exit")[0]["exit_code"] == 0 for records in read)


def test_classes_and_confusions(run: Path, read: Sessions) -> None:
    fitted, tested, _ = read
    found = table(tested, "test/classes")
    assert found["columns"] == ["class", "precision", "recall", "F1", "samples"]
    with (run / "report/per_class.csv").open() as report:
        expected = [[row[0], *map(float, row[1:])] for row in list(csv.reader(report))[1:11]]
    for row, wanted in zip(found["data"], expected, strict=True):
        assert row[0] == wanted[0]
        assert row[1:] == pytest.approx(wanted[1:], abs=1e-6)
    (drawn,) = pictures(tested, "test/confusion")
    assert (drawn == np.asarray(Image.open(run / "report/confusion_matrix.png").convert("RGB"))).all()
    assert sum(row[-1] for row in table(fitted, "val/classes")["data"]) == 135
    assert len(pictures(fitted, "val/confusion")) == 1


def test_pictures_are_those_that_the_network_saw(run: Path, read: Sessions, shards: Path) -> None:
    fitted, tested, _ = read
    packed = next(folder for folder in shards.glob("digits-*") if stored(folder, "test")[0].shape[1] == 8)
    images, labels = stored(packed, "train")
    shown = pictures(fitted, "train/augmented")
    assert len(shown) == 16
    for picture, caption in zip(shown, *logged(fitted, "train/augmented.captions"), strict=True):
        (place, *_) = np.flatnonzero((images == picture).all(axis=(1, 2, 3)))  # nothing is augmented here
        assert caption == str(labels[place])

    images, labels = stored(packed, "test")
    shown = pictures(tested, "test/predictions")
    places = [np.flatnonzero((images == picture).all(axis=(1, 2, 3)))[0] for picture in shown]
    assert len(places) == 16
    assert places[0] < 64
    assert places[-1] >= 384  # the whole split is looked at
    found = Predictions.load(run)
    for place, caption in zip(places, *logged(tested, "test/predictions.captions"), strict=True):
        said, share = found.probabilities[place].argmax(), 100 * found.probabilities[place].max()
        assert caption == f"predicted {said}, {share:.0f} %\ntrue {labels[place]}"


def stored(packed: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(packed / f"{split}-00000-of-00001.h5") as file:
        return file["images"][()], file["labels"][()]


def test_the_best_checkpoint_is_an_artifact_as_it_was(run: Path, read: Sessions) -> None:
    fitted, *_ = read
    (model,) = (artifact for artifact in of(fitted, "artifact") if artifact["type"] == "model")
    (content,) = model["manifest"]["contents"]
    kept = Path(content["local_path"])
    assert content["path"] == "best.ckpt"
    assert run.resolve() / "wandb" in kept.parents
    best = max(json.loads((run / "history.json").read_text())[:2], key=lambda record: record["val/top1"])
    assert torch.load(kept, weights_only=True)["epoch"] + 1 == best["epoch"]  # the third epoch has replaced the file
    assert json.loads(model["metadata"]) == pytest.approx({"val/top1": best["val/top1"]})
    assert not Path(".local").exists()
    assert "WANDB_DATA_DIR" not in os.environ


def test_the_table_goes_on(run: Path) -> None:
    with (run / "csv/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("train/loss", "val/top1"):
        epochs = [record[name] for record in json.loads((run / "history.json").read_text())]
        assert [float(row[name]) for row in rows if row[name]] == pytest.approx(epochs)
    assert sum(bool(row["test/top1"]) for row in rows) == 1
    assert [float(row["step"]) for row in rows if row["speed/data_wait"]] == [4, 8, 12]


def test_two_experiments_of_a_process_are_two_runs_and_pictures_can_be_left_out(read: Sessions) -> None:
    none = ["--trainer.callbacks+=callbacks.Dashboard", "--trainer.callbacks.pictures", "0"]
    other = fit("b", "--logger", "wandb", *none)
    (records,) = sessions(other)
    assert of(records, "run")[0]["run_id"] != of(read[0], "run")[0]["run_id"]
    assert len(logged(records, "val/loss")) == 1
    assert not logged(records, "train/augmented.filenames")
    assert not logged(records, "val/predictions.filenames")


def test_a_folder_that_cannot_be_written_does_not_end_the_run() -> None:
    folder = Path("runs/quickstart_digits/c")
    folder.mkdir(parents=True)
    (folder / "wandb").touch()
    fit("c", "--logger", "wandb,csv")
    (said,) = dashboard_lines(folder)
    assert said.startswith("W&B cannot be started, the run goes on without it: ")
    assert len(json.loads((folder / "history.json").read_text())) == 1
    assert (folder / "csv/metrics.csv").exists()


def test_a_failure_in_the_middle_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wandb.Run.log", full)
    folder = fit("m", "--logger", "wandb")
    said = [line for line in dashboard_lines(folder) if "fails" in line]
    assert said == ["W&B fails, and gets no more of this run: [Errno 28] No space left on device"]
    assert len(json.loads((folder / "history.json").read_text())) == 1


def test_a_server_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as deaf, caplog.at_level(logging.INFO, "litvision"):
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        wandb.teardown()
        logger = resume_or_begin(tmp_path, resumed=False)
    assert logger is not None
    assert logger.experiment.offline
    logger.finalize("success")
    wandb.teardown()
    first, second = (record.getMessage() for record in caplog.records if record.name == "litvision")
    assert first.startswith("W&B cannot be started, the run goes on offline: ")
    assert second == f"W&B: offline; wandb sync {tmp_path}/wandb uploads it"


@pytest.mark.parametrize("key", ["variable", "netrc"])
def test_a_key_makes_it_online_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    modes = []

    def init(mode: str, **_: object) -> None:
        modes.append(mode)
        raise wandb.Error("no network\nhere")

    monkeypatch.setattr(wandb, "init", init)
    assert resume_or_begin(tmp_path, resumed=False) is None
    assert modes == ["offline"]
    if key == "variable":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    else:
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        host = urlsplit(wandb.setup().settings.base_url).netloc
        (tmp_path / "netrc").write_text(f"machine {host}\n  login user\n  password {'0' * 40}\n")
    for mode, tried in ((None, ["online", "offline"]), ("offline", ["offline"]), ("disabled", [])):
        if mode:
            monkeypatch.setenv("WANDB_MODE", mode)
        wandb.teardown()
        modes.clear()
        assert resume_or_begin(tmp_path, resumed=False) is None
        assert modes == tried
    said = [record.getMessage() for record in caplog.records if record.name == "litvision"]
    assert "W&B cannot be started, the run goes on without it: no network here" in said
    wandb.teardown()


def test_names_of_the_environment_are_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def init(**arguments: object) -> None:
        asked.update(arguments)
        raise wandb.Error("no more is needed")

    monkeypatch.setattr(wandb, "init", init)
    for name in ("PROJECT", "RUN_GROUP", "NAME"):
        monkeypatch.setenv(f"WANDB_{name}", f"my {name}")
    wandb.teardown()
    resume_or_begin(tmp_path, resumed=False)
    wandb.teardown()
    assert [asked[name] for name in ("project", "group", "name")] == ["my PROJECT", "my RUN_GROUP", "my NAME"]


def test_a_failed_run_is_over_on_the_dashboard_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.finite_loss.FiniteLoss.on_train_epoch_end", lambda *_: 1 / 0, raising=False)
    with pytest.raises(ZeroDivisionError):
        fit("e", "--logger", "wandb")
    (records,) = sessions(Path("runs/quickstart_digits/e"))
    assert of(records, "exit")[0]["exit_code"] == 1
    assert not of(records, "preempting")


def test_a_paused_run_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def pause(*_: object) -> None:
        raise Paused

    monkeypatch.setattr("callbacks.finite_loss.FiniteLoss.on_train_epoch_end", pause, raising=False)
    with pytest.raises(Paused):
        fit("p", "--logger", "wandb")
    (records,) = sessions(Path("runs/quickstart_digits/p"))
    assert len(of(records, "preempting")) == 1
    assert of(records, "exit")[0]["exit_code"] == 1
    assert not of(records, "artifact")


def test_a_logger_of_ones_own_gets_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    fit("h", "--trainer.logger", "WandbLogger", "--trainer.logger.save_dir", "own")
    wandb.finish()
    wandb.teardown()
    (records,) = sessions(Path("own"))
    assert len(pictures(records, "train/augmented")) == 16
    assert logged(records, "speed/data_wait")
    assert of(records, "config")


def test_tensorboard() -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = fit("i", "--logger", "tensorboard", "--data.views", "flip", then=("--then", "test"))
    main.run_command(["fit", "--run", str(folder), "--trainer.max_epochs", "2"])
    main.run_command(["test", "--run", str(folder), *QUIET])
    found = accumulators.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    history = json.loads((folder / "history.json").read_text())
    for name in ("train/loss", "val/top1"):
        assert [event.value for event in found.Scalars(name)] == pytest.approx([record[name] for record in history])
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["global_step"]
    assert [event.step for event in found.Scalars("test/top1")] == [4, best]  # after the training, and by itself
    assert {"lr", "speed/images_per_second", "speed/data_wait"} <= set(found.Tags()["scalars"])
    evaluated = {f"{split}/{what}" for split in ("val", "test") for what in ("confusion", "predictions")}
    assert set(found.Tags()["images"]) == {"train/augmented", *evaluated}
    assert {"config/text_summary", "val/classes/text_summary"} <= set(found.Tags()["tensors"])
    text = found.Tensors("val/classes/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.splitlines()[:2] == ["| class | precision | recall | F1 | samples |", "| --- | --- | --- | --- | --- |"]
    assert len(text.splitlines()) == 12


def test_two_optimizers_make_one_step(workplace: Path) -> None:
    config, quick = str(PROJECT / "experiments/dcgan_digits.yaml"), ["--trainer.limit_train_batches", "3"]
    own = ["--config", config, "--name", "j", "--logger", "csv", "--trainer.max_epochs", "2", "--data.root", "data"]
    main.run_command(["fit", *own, *quick, *QUIET])
    with Path("runs/dcgan_digits/j/csv/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [[int(row["step"]) for row in rows if row[name]] for name in ("lr", "train/loss")]
    assert steps == [[3, 6], [2, 5]]


def test_what_was_logged_after_the_checkpoint_is_replaced(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for open_logger in (run_loggers.open_csv, run_loggers.open_tensorboard):
        for last_step, logged_then in ((None, {4: 0.5, 8: 0.25, 12: 0.25}), (4, {8: 0.75})):
            logger = open_logger(tmp_path, last_step)
            for step, value in logged_then.items():
                logger.log_metrics({"val/top1": value}, step)
            logger.finalize("success")
    with (tmp_path / "csv/metrics.csv").open() as file:
        assert [(row["step"], row["val/top1"]) for row in csv.DictReader(file)] == [("4", "0.5"), ("8", "0.75")]
    found = accumulators.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("val/top1")] == [(4, 0.5), (8, 0.75)]


def test_mixed_labels_are_told_by_their_shares() -> None:
    assert mixtures(torch.tensor([2, 0]), ["cat", "dog", "cow"]) == ["cow", "cat"]
    mixed = torch.tensor([[0.3, 0.0, 0.7], [0.0, 1.0, 0.0]])
    assert mixtures(mixed, ["cat", "dog", "cow"]) == ["cow 70 %\ncat 30 %", "dog 100 %"]


def test_what_is_no_logger_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = str(PROJECT / "experiments/quickstart_digits.yaml")
    for name, words in (("wandbb", "known are wandb, tensorboard, csv"), ("tensorboard", "pip install tensorboard")):
        monkeypatch.setattr(run_loggers, "find_spec", lambda _: None)
        monkeypatch.setattr(sys, "argv", ["main.py", "fit", "--config", config, "--logger", name])
        with pytest.raises(SystemExit):
            main.main()
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) <= 5


@pytest.mark.slow  # two processes, started twice
def test_only_the_first_of_two_processes_logs(workplace: Path) -> None:
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--name", "j", "--then", "test"]
    flags = ["--logger", "wandb,csv", "--trainer.devices", "2", "--trainer.strategy", "ddp", *FAST, *QUIET]
    command = [sys.executable, "-m", "main", "fit", *config, *flags, "--trainer.max_epochs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300)
    assert done.stdout.count("W&B: offline") == 2  # for the training and for the test
    fitted, tested = sessions(Path("runs/quickstart_digits/j"))
    assert len(logged(fitted, "val/loss")) == len(logged(tested, "test/loss")) == 1
    for records, name, samples in ((fitted, "val/classes", 135), (tested, "test/classes", 450)):
        assert sum(row[-1] for row in table(records, name)["data"]) == samples
