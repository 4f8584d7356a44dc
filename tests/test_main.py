"""The command line end to end: fit, test, continue, move; and what a user reads when something is wrong."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import model_checkpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.plugins.environments import SLURMEnvironment

import callbacks as cb
import cli
import main
from callbacks import WholeCheckpointIO
from callbacks.prediction_store import Predictions
from callbacks.run_folder import locked
from datamodules import Digits
from lightning_modules import Classifier

PROJECT = Path(main.__file__).parent
DIGITS = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml")]
AUGMENTED = ["--data.transforms+", "albumentations.Affine", "--data.transforms.rotate", "[-20, 20]"]
TINY = [
    "--trainer.accelerator",
    "cpu",
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.enable_model_summary",
    "false",
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go to tmp_path/runs; the digits are packed already."""
    monkeypatch.chdir(tmp_path)
    main.quieten()
    (tmp_path / "data").symlink_to(shards)


def run(*args: str) -> None:
    main.run_command([args[0], *(DIGITS if "--run" not in args and "--config" not in args else []), *args[1:], *TINY])


def fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str) -> str:
    """What a failing command prints as its error."""
    monkeypatch.setattr(sys, "argv", ["main.py", *args])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code in (1, 2)
    error = capsys.readouterr().err
    printed = error[error.index("error: ") :].strip()
    assert len(printed.splitlines()) <= 5
    assert "Traceback" not in error
    return printed


def same_weights(one: Path, other: Path, which: str = "last", other_which: str = "last") -> bool:
    """Whether two runs' checkpoints agree to the bit, optimizer included."""
    first, second = (
        torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
        for folder, name in ((one, which), (other, other_which))
    )
    momenta = [
        [state["momentum_buffer"] for state in c["optimizer_states"][0]["state"].values()] for c in (first, second)
    ]
    pairs = [
        *zip(first["state_dict"].values(), second["state_dict"].values(), strict=True),
        *zip(*momenta, strict=True),
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def test_fit_then_test_then_again_from_the_folder_after_a_move(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit", "--name", "a", "--then", "test", "--trainer.max_epochs", "2")
    last_line = capsys.readouterr().out.strip().splitlines()[-1]
    folder = tmp_path / "runs/quickstart_digits/a"
    for file in (
        *("config.yaml", "history.json", "history.png", "log.txt", "sessions.json", "checkpoints/best.ckpt"),
        *("checkpoints/last.ckpt", "report/metrics.json", "report/per_class.csv", "report/confusion_matrix.png"),
    ):
        assert (folder / file).stat().st_size > 0
    metrics = json.loads((folder / "report/metrics.json").read_text())
    assert metrics["samples"] == 450
    assert last_line == f"test top-1 = {metrics['test/top1']:.4f}"

    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    (moved / "report/metrics.json").unlink()
    run("test", "--run", str(moved))
    assert json.loads((moved / "report/metrics.json").read_text()) == metrics
    assert capsys.readouterr().out.strip().splitlines()[-1] == last_line
    run("validate", "--run", str(moved))
    with patch.object(Trainer, "predict", autospec=True, side_effect=Trainer.predict) as predicts:
        run("predict", "--run", str(moved))
    assert predicts.call_args.kwargs["return_predictions"] is False  # they would all be kept beside the file
    with (moved / "report/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(range(450))
    assert sum(row["label"] == row["predicted"] for row in rows) / 450 == metrics["test/top1"]
    assert all(0.1 <= float(row["probability"]) <= 1 for row in rows)
    assert {row["file"] for row in rows} == {""}  # scikit-learn's digits are no files


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Ends training in the middle of the second epoch; calling it brings the power back."""
    seed_step = cb.StepSeed.on_train_batch_start

    def fail(self: cb.StepSeed, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 2):
            raise RuntimeError("power cut")
        seed_step(self, trainer, pl_module, batch, batch_idx)

    monkeypatch.setattr(cb.StepSeed, "on_train_batch_start", fail)
    return lambda: monkeypatch.setattr(cb.StepSeed, "on_train_batch_start", seed_step)


def test_a_continued_run_equals_an_uninterrupted_one(tmp_path: Path, power_cut: Callable[[], None]) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        run("fit", "--name", "parts", *AUGMENTED, "--trainer.max_epochs", "3")
    power_cut()
    run("fit", "--name", "whole", *AUGMENTED, "--trainer.max_epochs", "3")
    parts, whole = (tmp_path / "runs/quickstart_digits" / name for name in ("parts", "whole"))
    assert len(json.loads((parts / "history.json").read_text())) == 1
    assert not same_weights(parts, whole)

    run("fit", "--run", str(parts))
    assert same_weights(parts, whole)
    assert (parts / "history.json").read_text() == (whole / "history.json").read_text()
    assert (parts / "config.yaml").read_text() == (whole / "config.yaml").read_text()
    sessions = json.loads((parts / "sessions.json").read_text())
    assert [(s["first_epoch"], s["last_epoch"]) for s in sessions] == [(1, 1), (2, 3)]


def test_a_moved_run_keeps_its_best_checkpoint_when_continued(tmp_path: Path) -> None:
    run("fit", "--name", "a", "--trainer.max_epochs", "2")
    shutil.move(tmp_path / "runs/quickstart_digits/a", tmp_path / "moved")
    best = torch.load(tmp_path / "moved/checkpoints/best.ckpt", weights_only=True)["epoch"]
    last = torch.load(tmp_path / "moved/checkpoints/last.ckpt", weights_only=True)
    (state,) = (state for name, state in last["callbacks"].items() if name.startswith("BestCheckpoint"))
    state["best_model_score"] = torch.tensor(1.0)  # which no later epoch can beat
    torch.save(last, tmp_path / "moved/checkpoints/last.ckpt")
    run("fit", "--run", str(tmp_path / "moved"), "--trainer.max_epochs", "4", "--model.optimizer.lr", "1e-30")
    assert torch.load(tmp_path / "moved/checkpoints/best.ckpt", weights_only=True)["epoch"] == best
    assert torch.load(tmp_path / "moved/checkpoints/last.ckpt", weights_only=True)["epoch"] == 3
    history = json.loads((tmp_path / "moved/history.json").read_text())
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert history[-1]["lr"] < 1e-20  # the flag wins over what the checkpoint holds


def test_flags_win_over_the_checkpoint(tmp_path: Path) -> None:
    """Also the settings that Lightning restores with the optimizer, in an experiment without a schedule."""
    constant = ["--trainer.callbacks", "null"]
    run("fit", "--name", "a", "--trainer.max_epochs", "1", *constant)
    folder = tmp_path / "runs/quickstart_digits/a"
    changed = ["--model.optimizer.lr", "0.002", "--model.optimizer.momentum", "0.5", "--model.weight_decay", "0.25"]
    run("fit", "--run", str(folder), "--trainer.max_epochs", "2", *changed)
    groups = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert {(group["lr"], group["momentum"]) for group in groups} == {(0.002, 0.5)}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.25}
    assert [record["lr"] for record in json.loads((folder / "history.json").read_text())] == [0.05, 0.002]


def test_checkpoints_load_safely_and_carry_their_configuration(tmp_path: Path) -> None:
    run("fit", "--name", "a", "--trainer.max_epochs", "1")
    folder = tmp_path / "runs/quickstart_digits/a"
    for which in ("best", "last"):
        checkpoint = torch.load(folder / f"checkpoints/{which}.ckpt", weights_only=True)
        assert checkpoint["config"] == (folder / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("scores", "flags", "chosen"),
    [
        ((0.5, 0.9, 0.2), [], 2),
        ((0.2, 0.9, 0.9), [], 2),  # the earliest of equals
        ((0.5, 0.9, 0.2), ["--data.validate_on_test", "true"], 3),  # nothing is chosen by the test split
    ],
)
def test_the_best_epoch_is_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: tuple[float, ...], flags: list[str], chosen: int
) -> None:
    """Whatever the network learns, so many are right in each epoch's validation."""

    def scripted(self: Classifier, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> dict:
        labels = batch[1]
        right = torch.arange(len(labels)) < scores[min(self.current_epoch, 2)] * len(labels)
        logits = torch.nn.functional.one_hot(torch.where(right, labels, (labels + 1) % 10), 10).float()
        return {"loss": logits.mean(), "logits": logits, "labels": labels}

    monkeypatch.setattr(Classifier, "validation_step", scripted)
    run("fit", "--name", "a", "--then", "test", "--trainer.max_epochs", "3", *flags)
    folder = tmp_path / "runs/quickstart_digits/a"
    assert [torch.load(folder / f"checkpoints/{which}.ckpt")["epoch"] + 1 for which in ("best", "last")] == [chosen, 3]
    assert Predictions.load(folder).epoch == chosen


def test_an_epoch_without_validation_is_no_cause_for_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    main.quieten()
    model_checkpoint.warning_cache.clear()
    run("fit", "--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "2")
    assert not [str(each.message) for each in recwarn if "monitor" in str(each.message)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trainer.max_epoch", "3"], ["max_epoch"]),
        (["--model.dropuot", "0.5"], ["MiniVGGNet", "dropuot", "pool_dropout"]),
        (["--model.optimizer.lrr", "0.5"], ["optimizer", "lrr", "did you mean lr"]),
        (["--model.optimizer", "SDG"], ["optimizer", "SDG", "did you mean SGD"]),
        (["--model.optimizer", "adamw"], ["did you mean AdamW"]),
        (["--model.optimizer", "null"], ["optimizer is None", "torch.optim.SGD"]),
        (["--model.weight_decay=-1"], ["weight_decay is -1", "at least 0"]),
        (["--model.label_smoothing", "2"], ["label_smoothing is 2", "between 0 and 1"]),
        (["--trainer.overfit_batches", "1"], ["--trainer.overfit_batches 1 is not taken here", "tools/doctor.py"]),
        (["--trainer.default_root_dir", "/tmp/x"], ["--trainer.default_root_dir", "take --name"]),
        (["--trainer.enable_checkpointing", "false"], ["--trainer.enable_checkpointing False is not taken here"]),
        (["--trainer.barebones", "true"], ["--trainer.barebones True is not taken here"]),
        (["--trainer.accumulate_grad_batches", "0"], ["accumulate_grad_batches is 0; it must be at least 1"]),
        (["--trainer.limit_train_batches", "0"], ["limit_train_batches 0 would train nothing"]),
        (["--seed_everything", "false"], ["every process needs the same seed"]),
        (["--model.image_size", "64"], ["--model.image_size is not taken here", "--data.image_size"]),
        (["--model.num_classes", "7"], ["--model.num_classes is not taken here"]),
        (["--trainer.callbacks+=callbacks.CosineDecay"], ["PolyDecay and CosineDecay", "set the learning rate"]),
        (["--trainer.callbacks=[callbacks.EMA,callbacks.EMA]"], ["EMA and EMA", "average the weights"]),
        (["--trainer.callbacks=[callbacks.EMA,EMAWeightAveraging]"], ["EMA and EMAWeight", "average the weights"]),
        (
            ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.02"],
            ["PolyDecay and StochasticWeightAveraging", "set the learning rate"],
        ),
        (["--model.class_path", "lightning_modules.MiniVGGNett"], ["did you mean MiniVGGNet"]),
        (["--data.class_path", "datamodules.Cifar10"], ["Cifar10", "CIFAR10"]),
        (["--data.batch_size", "many"], ["batch_size", "int", "many"]),
        (["--data.batch_size", "0"], ["batch_size is 0", "at least 1"]),
        (["--data.image_size", "0"], ["image_size is 0", "at least 1"]),
        (["--data.batch_size", "5000"], ["batch_size 5000", "1212 training samples"]),
        (["--data.normalization", "zca"], ["normalization", "mean_image"]),
        (["--data.val_fraction", "1.5"], ["val_fraction is 1.5"]),
        (["--data.image_size", "30"], ["multiple of 4", "30"]),
        (["--data.transforms+", "albumentations.GaussNoise", "--data.transforms.var_limit", "[1, 2]"], ["var_limit"]),
        (["--trainer.callbacks+", "callbacks.TopKAccuracy", "--trainer.callbacks.ks", "[0]"], ["ks is [0]"]),
        (
            ["--data.class_path", "datamodules.CIFAR10", "--data.source", "/nowhere"],
            ["/nowhere is not a folder", "source"],
        ),
    ],
)
def test_mistakes_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str], words: list[str]
) -> None:
    printed = fails(capsys, monkeypatch, "fit", *DIGITS, *TINY, *flags)
    for word in words:
        assert word in printed
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no settings"),
        (b"only words", "holds no settings"),
        ("model: {}".encode("utf-16"), "is no YAML in UTF-8"),
        (b"model:\n\tdepth: 3", "is no YAML in UTF-8"),
        (b"data: {}\ntrainer:\n  max_epochs: 1\n  logger: false\n  max_epochs: 9\n", "max_epochs in lines 3 and 5"),
        (b"trainer:\n  callbacks:\n  - {class_path: a, class_path: b}", "class_path in lines 3 and 3"),
    ],
)
def test_a_file_that_is_no_experiment_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    Path("mine.yaml").write_bytes(content)
    printed = fails(capsys, monkeypatch, "fit", "--config", "mine.yaml")
    assert "error: mine.yaml" in printed
    assert words in " ".join(printed.split())


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_weights_that_nobody_has_trained_are_not_tested(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    printed = fails(capsys, monkeypatch, command, *DIGITS, *TINY)
    assert f"no trained weights to {command} with: --run FOLDER" in printed
    assert not Path("runs").exists()


def test_what_is_no_run_or_not_yet_tested(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nowhere is not a run's folder" in fails(capsys, monkeypatch, "test", "--run", "nowhere")
    assert "nofile.yaml" in fails(capsys, monkeypatch, "fit", "--config", "nofile.yaml")
    assert "subcommand" in fails(capsys, monkeypatch)
    Path("empty").mkdir()
    Path("empty/config.yaml").touch()
    assert "--run FOLDER" in fails(capsys, monkeypatch, "fit", *DIGITS, "--ckpt_path", "last")
    assert "has no checkpoint" in fails(capsys, monkeypatch, "fit", "--run", "empty")


@pytest.mark.parametrize("name", ["a/b", "../a", "..", "/tmp/a"])
def test_a_name_is_that_of_a_folder_beside_the_other_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert f"--name {name} is no name of a folder" in fails(capsys, monkeypatch, "fit", *DIGITS, *TINY, "--name", name)


def test_pictures_of_other_classes_are_neither_tested_nor_trained_on(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for names in (("cat", "dog"), ("ant", "cat")):
        for name in names:
            folder = tmp_path / "-".join(names) / name
            folder.mkdir(parents=True)
            for number in range(10):
                Image.new("RGB", (8, 8), (25 * number, 0, 0)).save(folder / f"{number}.png")
    flags = ["--data.class_path", "datamodules.ImageFolder", "--data.image_size", "8", "--data.batch_size", "4"]
    run("fit", "--name", "a", "--trainer.max_epochs", "1", *flags, "--data.source", str(tmp_path / "cat-dog"))
    for command in ("test", "validate", "fit"):
        other = ["--run", "runs/quickstart_digits/a", *TINY, "--data.source", str(tmp_path / "ant-cat")]
        more = ["--trainer.max_epochs", "2"] if command == "fit" else []
        printed = fails(capsys, monkeypatch, command, *other, *more)
        assert "was trained on the classes cat, dog; those of the data are ant, cat" in printed


def test_the_folder_is_named_by_the_experiment_however_its_flag_is_typed() -> None:
    main.run_command(["fit", f"--config={DIGITS[1]}", *TINY, "--name", "a", "--trainer.max_epochs", "1"])
    assert Path("runs/quickstart_digits/a/history.json").is_file()


def test_an_argument_that_albumentations_would_ignore_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transforms = "transforms: [{class_path: albumentations.Rotate, dict_kwargs: {value: 3}}]"
    text = Path(DIGITS[1]).read_text().replace("    batch_size: 64\n", f"    batch_size: 64\n    {transforms}\n")
    (tmp_path / "a.yaml").write_text(text)
    printed = fails(capsys, monkeypatch, "fit", "--config", str(tmp_path / "a.yaml"), *TINY)
    assert "Argument(s) 'value' are not valid for transform Rotate" in printed


def test_then_is_of_fit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--then test is of fit" in fails(capsys, monkeypatch, "test", "--run", "a", "--then", "test")


def test_a_plugin_takes_nothing_away() -> None:
    plugin = "--trainer.plugins=lightning_fabric.plugins.environments.LightningEnvironment"
    built = cli.experiment(Path(DIGITS[1]), [*TINY, plugin], Path("runs/a"))
    assert isinstance(built.trainer.strategy.checkpoint_io, WholeCheckpointIO)


def test_a_run_is_not_overwritten(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run("fit", "--name", "a", "--trainer.max_epochs", "1")
    before = Path("runs/quickstart_digits/a/checkpoints/last.ckpt").read_bytes()
    assert "fit --continue runs/quickstart_digits/a" in fails(capsys, monkeypatch, "fit", *DIGITS, "--name", "a")
    assert Path("runs/quickstart_digits/a/checkpoints/last.ckpt").read_bytes() == before


def test_damage(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of another network, a damaged one, an edited and a truncated shard, a set of another recipe."""
    run("fit", "--name", "a", "--trainer.max_epochs", "1")
    folder = Path("runs/quickstart_digits/a")
    other = ["--model.class_path", "lightning_modules.CifarResNet", "--model.depth", "8"]
    printed = fails(
        capsys, monkeypatch, "test", *DIGITS, *TINY, *other, "--ckpt_path", str(folder / "checkpoints/best.ckpt")
    )
    assert "another network" in printed
    assert "CifarResNet" in printed
    (folder / "checkpoints/best.ckpt").write_bytes(b"not a checkpoint")
    assert "best.ckpt" in fails(capsys, monkeypatch, "test", "--run", str(folder), *TINY)

    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    root = ["--data.root", str(copy)]
    packed = Digits(root=str(copy)).folder
    shard = packed / "train-00000-of-00001.h5"
    content = shard.read_bytes()
    shard.write_bytes(content[:5000] + b"edited" + content[5006:])
    assert "train-00000-of-00001.h5 was changed" in fails(capsys, monkeypatch, "fit", *DIGITS, *TINY, *root)
    shard.write_bytes(content[:5000])
    assert "has 5000 bytes instead of" in fails(capsys, monkeypatch, "fit", *DIGITS, *TINY, *root)
    shard.write_bytes(content)
    manifest = json.loads((packed / "manifest.json").read_text())
    manifest["recipe"]["split_seed"] = 7
    (packed / "manifest.json").write_text(json.dumps(manifest))
    assert "another recipe (split_seed 7 instead of 42)" in fails(capsys, monkeypatch, "fit", *DIGITS, *TINY, *root)


def test_a_training_that_cannot_go_on_leaves_the_run_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("fit", "--name", "a", "--trainer.max_epochs", "1")
    folder = Path("runs/quickstart_digits/a")
    config = (folder / "config.yaml").read_text()
    for flags, words in (
        (["--model", "lightning_modules.CifarResNet"], "another network"),
        (["--model.optimizer", "torch.optim.Adam"], "another optimizer than Adam"),
        (["--model.weight_decay", "0"], "which weights have decay or a rate of their own cannot change"),
    ):
        printed = fails(capsys, monkeypatch, "fit", "--continue", str(folder), "--trainer.max_epochs", "2", *flags)
        assert words in printed
        assert (folder / "config.yaml").read_text() == config
    run("fit", "--run", str(folder), "--trainer.max_epochs", "2")
    assert len(json.loads((folder / "history.json").read_text())) == 2


def test_a_training_that_cannot_begin_is_no_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = ["--trainer.callbacks", "callbacks.CosineDecay", "--trainer.max_epochs", "-1"]
    assert "max_epochs" in fails(capsys, monkeypatch, "fit", *DIGITS, *TINY, "--name", "a", *endless)
    run("fit", "--name", "a", "--trainer.max_epochs", "1")
    assert "fit --continue runs/quickstart_digits/a goes on with it" in fails(
        capsys, monkeypatch, "fit", *DIGITS, *TINY, "--name", "a"
    )


def test_a_test_of_another_kind_does_not_replace_the_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("fit", "--name", "a", "--trainer.max_epochs", "1", "--then", "test")
    folder = Path("runs/quickstart_digits/a")
    metrics = (folder / "report/metrics.json").read_text()
    for flags, words in (
        (["--data.views", "flip"], "where data.init_args.views is one, not flip; choose a --name for another"),
        (["--trainer.limit_test_batches", "1"], "trainer.limit_test_batches is None, not 1"),
    ):
        assert words in fails(capsys, monkeypatch, "test", "--run", str(folder), *TINY, *flags)
        assert (folder / "report/metrics.json").read_text() == metrics
        run("test", "--run", str(folder), "--name", flags[0][-5:], *flags)
    run("test", "--run", str(folder), "--name", "a", "--data.batch_size", "50")  # which changes nothing
    shutil.copytree(folder, folder.with_name("b"))
    words = "b holds another run than runs/quickstart_digits/a; choose another --name"
    assert words in fails(capsys, monkeypatch, "test", "--run", str(folder), *TINY, "--name", "b")
    assert json.loads((folder / "report/metrics.json").read_text())["test/top1"] == json.loads(metrics)["test/top1"]


def test_what_holds_a_checkpoint_is_a_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it but the best one, where the last was deleted or every tenth epoch has one."""
    run("fit", "--name", "a", "--trainer.max_epochs", "1")
    Path("runs/quickstart_digits/a/checkpoints/last.ckpt").unlink()
    assert "holds a run already" in fails(capsys, monkeypatch, "fit", *DIGITS, *TINY, "--name", "a")
    shutil.rmtree("runs/quickstart_digits/a/checkpoints")
    held = locked(Path("runs/quickstart_digits/a"))
    assert "another process trains in" in fails(capsys, monkeypatch, "fit", *DIGITS, *TINY, "--name", "a")
    held.release()
    run("fit", "--name", "a", "--trainer.max_epochs", "1")


def test_one_callback_alone_need_not_be_a_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("fit", "--name", "a", "--trainer.max_epochs", "1", "--trainer.callbacks", "callbacks.EMA")
    assert "weights_in_training" in torch.load("runs/quickstart_digits/a/checkpoints/last.ckpt", weights_only=True)


def test_there_is_one_way_to_an_optimizer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for flag, value in (("optimizer", "SGD"), ("lr_scheduler", "ConstantLR")):
        error = fails(capsys, monkeypatch, "fit", *DIGITS, *TINY, f"--{flag}", value)
        assert f"--{flag} " in error
        assert "is not taken here" in error


def test_a_broken_picture_is_named_by_the_command(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw/17flowers/jpg/image_0077.jpg").write_bytes(b"\xff\xd8\xff")
    config = [
        "--config",
        str(PROJECT / "experiments/minivggnet_flowers17.yaml"),
        "--data.source",
        str(tmp_path / "raw"),
    ]
    assert "image_0077.jpg cannot be read" in fails(capsys, monkeypatch, "fit", *config)
    assert not list(tmp_path.glob("data/flowers17-*/manifest.json"))


@pytest.mark.slow
def test_the_quickstart_reaches_95_percent(capsys: pytest.CaptureFixture[str]) -> None:
    main.run_command(["fit", *DIGITS, "--name", "a", "--then", "test"])
    last_line = capsys.readouterr().out.strip().splitlines()[-1]
    assert float(last_line.removeprefix("test top-1 = ")) >= 0.95


def test_slurm_pauses_a_run_and_requeues_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: True))
    with patch.object(LightningCLI, "instantiate_trainer") as made:
        cli.CLI(tmp_path, [*DIGITS, "--data.root", str(tmp_path)], runs=False)
    (slurm,) = (each for each in made.call_args.kwargs["plugins"] if isinstance(each, SLURMEnvironment))
    assert not slurm.auto_requeue
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")  # torchrun within a job knows its processes itself
    with patch.object(LightningCLI, "instantiate_trainer") as made:
        cli.CLI(tmp_path, [*DIGITS, "--data.root", str(tmp_path)], runs=False)
    assert not [each for each in made.call_args.kwargs["plugins"] if isinstance(each, SLURMEnvironment)]
