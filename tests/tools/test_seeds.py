"""Several seeds by one command: trained once, and the statistics of what they reach."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import main
from confidence import Spread, spreads, table
from tools import seeds

PROJECT = Path(main.__file__).parent
QUICK = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "4", "--trainer.limit_val_batches", "2"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--data.image_size", "16"]


@pytest.fixture
def run(call: Callable, commands: list[Sequence[str]], shards: Path) -> Callable:
    """Calls the tool; what it prints, of a refusal the error, and the commands that it gave."""

    def run(*args: object) -> tuple[str, list[Sequence[str]]]:
        commands.clear()
        config = ["--config", PROJECT / "experiments/quickstart_digits.yaml"]
        status, out, err = call(seeds, *config, *args, "--data.root", shards, *QUICK, *QUIET)
        return err if status else out, list(commands)

    return run


def test_seeds_are_trained_once_and_tested_later(run: Callable, tmp_path: Path) -> None:
    printed, commands = run("--seeds", "1", "2", "3", "--name", "x")
    assert len(commands) == 3
    runs = tmp_path / "runs/quickstart_digits"
    figures = json.loads((runs / "x-seeds/seeds.json").read_text())
    best = []
    for seed in (1, 2, 3):
        history = json.loads((runs / f"x-seed{seed}/history.json").read_text())
        best.append(max(record["val/top1"] for record in history))
        assert figures["runs"][f"x-seed{seed}"]["val/top1"] == best[-1]
    assert len(set(best)) > 1
    found = figures["metrics"]["val/top1"]
    assert found["mean"] == pytest.approx(np.mean(best))
    assert found["std"] == pytest.approx(np.std(best, ddof=1))
    assert found["ci95"] == pytest.approx(stats.t.interval(0.95, 2, np.mean(best), stats.sem(best)))
    assert not [name for name in figures["metrics"] if name.startswith("test/")]
    for words in (f"{100 * np.mean(best):.2f}", f"{100 * found['ci95'][0]:.2f} .. {100 * found['ci95'][1]:.2f}"):
        assert words in printed

    assert run("--seeds", "1", "2", "3", "--name", "x", "--data.num_workers", "0")[1] == []
    edited = tmp_path / "quickstart_digits.yaml"
    edited.write_text((PROJECT / "experiments/quickstart_digits.yaml").read_text().replace("lr: 0.05", "lr: 0.3"))
    for words, *flags in (
        ("data.init_args.batch_size 64, not 32", "--data.batch_size", "32"),
        ("optimizer.init_args.lr 0.05, not 0.5", "--lr", "0.5"),
        ("optimizer.init_args.lr 0.05, not 0.3", "--config", edited),
    ):
        refused, commands = run("--seeds", "1", "4", "--name", "x", *flags)
        assert "x-seed1 was begun with" in refused
        assert words in refused
        assert commands == []

    refused, commands = run("--seeds", "1", "--name", "x", "--test", "--lr", "0.5")  # it was not tested yet
    assert "lr 0.05, not 0.5" in refused
    assert commands == []

    kept = (runs / "x-seed1/checkpoints/last.ckpt").rename(tmp_path / "last.ckpt")
    assert "lr 0.05, not 0.5" in run("--seeds", "1", "--name", "x", "--lr", "0.5")[0]
    kept.rename(runs / "x-seed1/checkpoints/last.ckpt")

    os.remove(runs / "x-seed2/report/val_probabilities.h5")  # as if it had been interrupted after its last epoch
    trained = (runs / "x-seed2/checkpoints/last.ckpt").stat().st_mtime_ns
    (command,) = run("--seeds", "1", "2", "--name", "x")[1]
    assert command[3:7] == ["--name", "x-seed2", "--resume", "auto"]
    printed, commands = run("--seeds", "1", "2", "--name", "x", "--test")
    assert [command[3:7] for command in commands] == [["--name", f"x-seed{n}", "--resume", "auto"] for n in (1, 2)]
    assert (runs / "x-seed2/checkpoints/last.ckpt").stat().st_mtime_ns == trained  # tested, not trained anew
    figures = json.loads((runs / "x-seeds/seeds.json").read_text())
    tested = [json.loads((runs / f"x-seed{seed}/report/metrics.json").read_text())["test/top1"] for seed in (1, 2)]
    assert [run["test/top1"] for run in figures["runs"].values()] == tested
    assert figures["metrics"]["test/top1"]["mean"] == pytest.approx(sum(tested) / 2)
    assert "test/top1 %" in printed

    history = json.loads((runs / "x-seed1/history.json").read_text())
    history.append({**history[-1], "epoch": 3, "val/top1": 1.0})  # as if it was trained on since its test
    (runs / "x-seed1/history.json").write_text(json.dumps(history))
    (command,) = run("--seeds", "1", "2", "--name", "x", "--test")[1]
    assert command[3:7] == ["--name", "x-seed1", "--resume", "auto"]


def test_refused(run: Callable, tmp_path: Path) -> None:
    for words, *args in (
        ("each seed once", "--seeds", "1", "1"),
        ("trains no classifier", "--seeds", "1", "--config", PROJECT / "experiments/dcgan_digits.yaml"),
        ("did you mean pool_dropout?", "--seeds", "1", "--model.pool_dropuot", "0.1"),
    ):
        assert words in run(*args)[0]
    assert not (tmp_path / "runs").exists()


def test_a_run_killed_in_its_first_epoch_begins_anew(run: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "runs/quickstart_digits/seed5"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("what the killed process has left")
    assert run("--seeds", "5")[1][0][1] == "--config"
    assert len(json.loads((folder / "history.json").read_text())) == 2


def test_spread_by_hand() -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    assert (spread.mean, spread.std) == (2, 1)
    assert spread.ci95 == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))  # t of a printed table
    assert Spread.of([0.5]) == Spread(0.5, None, None)
    for lacking in ({"val/loss": None}, {}):
        with pytest.raises(ValueError, match=r"val/loss of b is missing or not finite"):
            spreads({"a": {"val/loss": 0.0}, "b": lacking})


def test_lines_of_the_table_by_hand() -> None:
    runs = {"a": {"val/top1": 0.5, "val/top5": 0.75, "val/loss": 1.0}}
    runs["b"] = {"val/top1": 0.6, "val/top5": 0.75, "val/loss": 3.0}
    made = table("two", runs, spreads(runs))
    names, top1, top5, losses = (list(column.cells) for column in made.columns)
    assert names == ["a", "b", "mean", "deviation", "95 % interval"]
    assert [column.header for column in made.columns] == ["run", "val/top1 %", "val/top5 %", "val/loss"]
    assert top1 == ["50.00", "60.00", "55.00", "7.07", "-8.53 .. 118.53"]  # 12.7062 times 10 / 2, of a printed table
    assert top5[2:] == ["75.00", "0.00", "75.00 .. 75.00"]
    assert losses[:4] == ["1.0000", "3.0000", "2.0000", "1.4142"]
    del runs["b"]
    assert list(table("one", runs, spreads(runs)).columns[0].cells) == ["a", "mean"]


@pytest.mark.parametrize(("on_test", "top1"), [("false", 0.7), ("true", 0.6)])
def test_nothing_is_chosen_by_the_test_split(tmp_path: Path, on_test: str, top1: float) -> None:
    (tmp_path / "config.yaml").write_text(f"data: {{init_args: {{validate_on_test: {on_test}}}}}")
    history = [{"epoch": epoch, "val/top1": top1, "train/top1": 1.0} for epoch, top1 in ((1, 0.5), (2, 0.7), (3, 0.6))]
    (tmp_path / "history.json").write_text(json.dumps(history))
    assert seeds.metrics_of(tmp_path, tested=False) == {"val/top1": top1}
