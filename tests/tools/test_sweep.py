"""Sweeps: every trial once, whatever is killed or runs at once, and nothing chosen by the test split."""

import csv
import io
import itertools
import json
import math
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import optuna
import psutil
import pytest

import fit_and_test
import main
from callbacks.prediction_store import OF_VALIDATION
from sweeps.pruning import hopeless
from sweeps.results import Result, best_of, draw, in_order, table_of
from sweeps.space import Choices, Range, parsed, short_names
from sweeps.trials import Sweep
from terminal import screen
from tools import sweep as tool

PROJECT = Path(main.__file__).parent
CONFIG = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml")]
GAN = str(PROJECT / "experiments/dcgan_digits.yaml")
QUICK = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"]
QUICK += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
LR, DROPOUT = "model.optimizer.lr", "model.pool_dropout"

Call = Callable[..., str]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The tool in this process; what it prints, of a refusal the error."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sweep.py", *CONFIG, *args])
        capsys.readouterr()
        try:
            tool.main()
        except SystemExit as ended:
            return f"{ended.code} {capsys.readouterr().err}"
        return capsys.readouterr().out

    return call


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The commands that the tool gives, which leave a history instead of training for it.

    Accuracy is 1 minus the dropout; a learning rate of 9 fails, and one of 8 is killed. The test split
    would seem to be perfect.
    """
    given: list[Sequence[str]] = []

    def train(arguments: Sequence[str], held: Sequence[int], hopeless: Callable[[], bool] | None) -> None:
        given.append(arguments)
        values = dict(itertools.pairwise(arguments))
        run = Path("runs/quickstart_digits", values.get("--name") or Path(values["--run"]).name)
        (run / "report").mkdir(parents=True, exist_ok=True)
        if values.get(f"--{LR}") == "8":
            raise subprocess.CalledProcessError(-9, "main.py")
        if values.get(f"--{LR}") == "9":
            (run / "log.txt").write_text("failed\nTraceback\nValueError: the loss is nan in epoch 1\n")
            raise subprocess.CalledProcessError(1, "main.py")
        top1 = 1 - float(values.get(f"--{DROPOUT}", 0))
        first = {"epoch": 1, "val/top1": top1, "val/loss": top1, "test/top1": 1.0}
        worse = {"epoch": 2, "val/top1": top1 / 2, "val/loss": None, "test/top1": 1.0}
        (run / "history.json").write_text(json.dumps([first]))
        if hopeless and hopeless():
            raise fit_and_test.Hopeless
        (run / "history.json").write_text(json.dumps([first, worse]))
        (run / OF_VALIDATION).touch()

    monkeypatch.setattr(fit_and_test, "run_main", train)
    return given


def results(folder: Path, name: str = "sweep") -> list[dict]:
    return json.loads((folder / f"runs/quickstart_digits/{name}/results.json").read_text())


def test_a_grid_takes_all_combinations_once(call: Call, commands: list[Sequence[str]], tmp_path: Path) -> None:
    grid = ["--grid", f"{LR}=0.1,9", "--grid", f"{DROPOUT}=0.1,0.3,0.2"]
    printed = call(*grid, *QUICK)
    wanted = list(itertools.product(["0.1", "9"], ["0.1", "0.3", "0.2"]))
    assert [tuple(command[-3::2]) for command in commands] == wanted
    assert all(list(QUICK) == list(command[9:-4]) for command in commands)
    found = results(tmp_path)
    assert [(each["state"], each["values"][DROPOUT]) for each in found] == [
        *(("complete", "0.1"), ("complete", "0.2"), ("complete", "0.3")),
        *(("failed", "0.1"), ("failed", "0.3"), ("failed", "0.2")),
    ]
    assert [each["value"] for each in found[:3]] == pytest.approx([0.9, 0.8, 0.7])  # of the best epoch
    assert {each["epoch"] for each in found[:3]} == {1}
    assert {each["note"] for each in found[3:]} == {"the loss is nan in epoch 1"}
    folder = tmp_path / "runs/quickstart_digits/sweep"
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row[DROPOUT]) for row in rows] == [(each["run"], each["values"][DROPOUT]) for each in found]
    assert (folder / "results.png").read_bytes()[:4] == b"\x89PNG"
    assert printed.index("0.9000") < printed.index("0.8000") < printed.index("0.7000") < printed.index("loss is nan")

    commands.clear()
    assert call(*grid, *QUICK).splitlines()[-8:] == printed.splitlines()[-8:]
    assert commands == []
    for changed in (
        *(["--trainer.max_epochs", "9"], ["--metric", "val/loss"], ["--grid", "data.batch_size=8"]),
        *(["--seed", "1"], ["--prune"]),
    ):
        assert "choose another --name" in call(*grid, *QUICK, *changed)
    at_random = [word.replace("--grid", "--random") for word in grid]
    assert "its kind is grid, not random" in call(*at_random, "--trials", "6", *QUICK)
    assert commands == []


def test_random_values_follow_from_seed_and_number(call: Call, commands: list[Sequence[str]], tmp_path: Path) -> None:
    space = ["--random", f"{LR}=log:1e-4:1", "--random", "data.batch_size=8:64", "--random", f"{DROPOUT}=0:0.5"]
    call(*space, "--trials", "12", "--name", "a")
    call(*space, "--trials", "4", "--name", "b")
    call(*space, "--trials", "12", "--name", "b")  # more of the same
    drawn = [[tuple(c[-5::2]) for c in commands[part]] for part in (slice(0, 12), slice(12, 24))]
    assert len(commands) == 24
    assert drawn[0] == drawn[1]
    rates, batches, dropouts = zip(*drawn[0], strict=True)
    assert len(set(rates)) == 12
    assert 2 < sum(float(rate) < 1e-2 for rate in rates) < 10  # half of them; one in a hundred if it were not log
    assert {str(int(batch)) for batch in batches} == set(batches)
    assert all(8 <= int(batch) <= 64 for batch in batches)
    assert all(0 <= float(dropout) <= 0.5 for dropout in dropouts)
    call(*space, "--trials", "2", "--name", "c", "--seed", "1")
    assert tuple(commands[24][-5::2]) != drawn[0][0]
    assert len(results(tmp_path, "b")) == 12


def test_tpe_looks_where_it_is_good(call: Call, commands: list[Sequence[str]], tmp_path: Path) -> None:
    call("--tpe", f"{DROPOUT}=0:0.5", "--trials", "30", "--journal")
    dropouts = [float(command[-1]) for command in commands]
    assert sum(dropouts[-10:]) / 10 < sum(dropouts[:10]) / 10 / 2
    assert (tmp_path / "runs/quickstart_digits/sweep/sweep.journal").exists()
    assert "choose another --name" in call("--tpe", f"{DROPOUT}=0:0.5", "--trials", "30")  # without the journal


def test_losses_are_minimised(call: Call, commands: list[Sequence[str]], tmp_path: Path) -> None:
    call("--grid", f"{DROPOUT}=0.1,0.3,0.2", "--metric", "val/loss")
    assert [each["values"][DROPOUT] for each in results(tmp_path)] == ["0.3", "0.2", "0.1"]
    call("--grid", f"{DROPOUT}=1", "--metric", "val/loss", "--name", "zero")
    assert [(each["state"], each["value"]) for each in results(tmp_path, "zero")] == [("complete", 0.0)]


def test_a_metric_that_is_none_ends_the_sweep_after_an_epoch(
    call: Call, commands: list[Sequence[str]], tmp_path: Path
) -> None:
    assert "has no val/top9, but val/loss, val/top1" in call("--grid", f"{LR}=1", "--metric", "val/top9")
    assert len(json.loads((tmp_path / "runs/quickstart_digits/sweep-000/history.json").read_text())) == 1


def test_hopeless_trials_are_stopped(call: Call, commands: list[Sequence[str]], tmp_path: Path) -> None:
    printed = call("--grid", f"{DROPOUT}=0.1,0.2,0.3,0.4,0.5,0.29,0.31,0.6", "--prune")
    # five are finished whatever they reach; the median is 0.7, then 0.705
    states = {each["values"][DROPOUT]: (each["state"], each["value"]) for each in results(tmp_path)}
    assert [key for key, (state, _) in states.items() if state == "stopped"] == ["0.31", "0.6"]
    assert states["0.31"] == ("stopped", pytest.approx(0.69))
    assert printed.count("worse than the median") == 2
    call("--grid", f"{DROPOUT}=0.1,0.2,0.3,0.4,0.5,0.6,0.7", "--prune", "--metric", "val/loss", "--name", "b")
    assert "stopped" not in {each["state"] for each in results(tmp_path, "b")}  # each loss is smaller than the others
    call("--grid", f"{DROPOUT}=0.1,0.2,0.3,0.4,0.5,0.9,0.8,0.35", "--prune", "--name", "c")
    stopped = [each["values"][DROPOUT] for each in results(tmp_path, "c") if each["state"] == "stopped"]
    assert stopped == ["0.35", "0.8", "0.9"]  # 0.65 is below the median of those that were finished


def test_a_trial_is_compared_with_what_others_had_reached_after_as_many_epochs(tmp_path: Path) -> None:
    def run(name: str, *accuracies: float) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        history = [{"epoch": epoch, "val/top1": top1} for epoch, top1 in enumerate(accuracies, start=1)]
        (tmp_path / name / "history.json").write_text(json.dumps(history))
        return tmp_path / name

    finished = [run(f"finished {number}", 0.5, 0.9) for number in range(5)]
    for accuracies, expected in (([0.6], False), ([0.4], True), ([0.6, 0.7], True), ([0.6, 0.95], False)):
        assert hopeless(run("mine", *accuracies), finished, "val/top1", maximize=True) == expected
    assert not hopeless(run("mine", 0.4), finished[:4], "val/top1", maximize=True)


def test_the_median_is_of_the_best_so_far_and_no_mean(tmp_path: Path) -> None:
    def run(name: str, *losses: float | None) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        history = [{"epoch": epoch, "val/loss": loss} for epoch, loss in enumerate(losses, start=1)]
        (tmp_path / name / "history.json").write_text(json.dumps(history))
        return tmp_path / name

    lowest = (0.1, 0.2, 0.3, 0.5, 0.6, 4.0)
    finished = [run(f"finished {loss}", loss, 5.0, 0.01) for loss in lowest]
    for loss, expected in ((0.41, True), (0.4, False), (0.39, False)):
        assert hopeless(run("mine", loss, 5.0), finished, "val/loss", maximize=False) == expected
    finished[0] = run("finished late", None, None, 0.1)
    assert not hopeless(run("mine", 0.9, 5.0), finished, "val/loss", maximize=False)  # it is not known yet


def test_a_killed_training_goes_on_once(call: Call, commands: list[Sequence[str]], tmp_path: Path) -> None:
    call("--grid", f"{LR}=8,0.1")
    assert [command[-1] for command in commands] == ["8", "8", "0.1"]
    assert [each["state"] for each in results(tmp_path)] == ["complete", "failed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grid", "model.optimizer.lrr=1,2"], "did you mean lr"),
        (["--grid", f"{LR}=0.1,fast"], "fast"),
        (["--random", f"{LR}=0.1:0.2", "--random", "data.batchsize=1:2", "--trials", "1"], "did you mean batch_size"),
        (["--grid", f"{LR}=1"], ""),
        (["--grid", f"{LR}=0.1:0.2"], "a grid needs lists"),
        (["--grid", f"{LR}=1", "--then", "test"], "unrecognized arguments: --then test"),
        (["--grid", f"{LR}=1", "--data.validate_on_test", "true"], "validate_on_test lets the test split choose"),
        (["--grid", "data.validate_on_test=false,true"], "validate_on_test lets the test split choose"),
        (["--grid", f"{LR}=1", "--metric", "test/top1"], "is not of validation"),
        (["--random", f"{LR}=0.1:0.2", "--trials", "0"], "--trials: 0 is less than 1"),
        (["--grid", f"{LR}=1", "--random", f"{DROPOUT}=0:1"], "by one of them only"),
        (["--random", f"{LR}=1,2"], "need --trials"),
        (["--grid", f"{LR}=1", "--grid", f"{LR}=2"], "each key once"),
        (["--grid", "seed_everything=1,2", "--config", GAN], "dcgan_digits.yaml trains no classifier"),
    ],
)
def test_refused_before_anything_runs(
    call: Call, commands: list[Sequence[str]], tmp_path: Path, arguments: list[str], words: str
) -> None:
    said = call(*arguments)
    assert words in said
    if words:
        assert len(said.strip().splitlines()) <= 40
        assert commands == []
        assert not (tmp_path / "runs").exists()
    else:  # what is well formed runs
        assert len(commands) == 1


def test_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "optuna.trial")
    with pytest.raises(SystemExit, match=r"^error: optuna\S* is not installed; pip install -e '.\[sweep\]'$"):
        runpy.run_path(str(PROJECT / "tools/sweep.py"))


def test_a_strange_run_is_no_trial(call: Call, commands: list[Sequence[str]], tmp_path: Path) -> None:
    (tmp_path / "runs/quickstart_digits/sweep-000").mkdir(parents=True)
    assert "is no trial of this sweep; choose another --name" in call("--grid", f"{LR}=1")
    (tmp_path / "runs/quickstart_digits/a").mkdir()
    (tmp_path / "runs/quickstart_digits/a/config.yaml").touch()
    assert "a is a run; choose another --name" in call("--grid", f"{LR}=1", "--name", "a")
    assert commands == []


def test_values() -> None:
    assert parsed("--a.b=0.1,x,[1, 2],{c: 1,d: 2}") == ("a.b", Choices(("0.1", "x", "[1, 2]", "{c: 1,d: 2}")))
    assert parsed("a=1:8") == ("a", Range(1, 8, False, True))
    assert parsed("a=log:1e-4:1") == ("a", Range(1e-4, 1.0, True, False))
    assert parsed("a=log:1e-4:1")[1].extremes == ("0.0001", "1.0")
    for reason, wrong in {
        "is no KEY=VALUES": ("a", "a=", "=1"),
        "the first number must be the smaller": ("a=2:1", "a=1:1", "a=0:inf", "a=log:0:1"),
        "are not both numbers": ("a=log:x:1",),
        "each value once, and none empty": ("a=1,,2", "a=1,1"),
    }.items():
        for text in wrong:
            with pytest.raises(ValueError, match=reason):
                parsed(text)
    assert short_names(["model.optimizer.lr", "model.head.lr", "data.size"]) == ["optimizer.lr", "head.lr", "data.size"]
    assert short_names(["model.optimizer.lr", "data.size"]) == ["lr", "size"]


def test_the_best_epoch_of_a_history(tmp_path: Path) -> None:
    records = [{"epoch": 1, "val/a": 2.0}, {"epoch": 2, "val/a": None}, {"epoch": 3, "val/a": 5.0}, {"epoch": 4}]
    records += [{"epoch": 5, "val/a": 5.0}, {"epoch": 6, "val/a": 2.0}]  # no better than before
    (tmp_path / "history.json").write_text(json.dumps(records))
    assert best_of(tmp_path, "val/a", True) == (5.0, 3)
    assert best_of(tmp_path, "val/a", False) == (2.0, 1)
    (tmp_path / "history.json").write_text(json.dumps([{"epoch": 1, "val/a": None}]))
    assert best_of(tmp_path, "val/a", True) is None


def test_brackets_of_values_and_reasons_are_shown() -> None:
    results = [Result(i, "", "failed", None, None, {"a": value}, value) for i, value in enumerate(["[relu]", "[/b]"])]
    file = io.StringIO()
    screen(file).print(table_of(results, "val/top1", ["a"], "a sweep"))
    assert (file.getvalue().count("[relu]"), file.getvalue().count("[/b]")) == (2, 2)
    assert "None" not in file.getvalue()  # no metric and no epoch


@pytest.mark.parametrize("count", [1, 3, 200])
def test_a_picture_of_few_and_of_many(count: int) -> None:
    space = dict(map(parsed, ["a.lr=log:1e-4:1", "b.size=8,64", "c.kind=torch.optim.SGD,torch.optim.AdamW", "d=0:1"]))
    made = []
    for i in range(count):
        values = {"a.lr": repr(1e-4 * 1.04**i), "b.size": ["8", "64"][i % 2], "d": repr(i / 200)}
        values["c.kind"] = space["c.kind"].values[i % 2]
        made.append(Result(i, "", "failed" if i % 7 == 1 else "complete", None if i % 7 == 1 else i / 200, 1, values))
    figure = draw(in_order(made, True), "val/top1", space)
    axes = {place.get_xlabel(): place for place in figure.axes}
    assert list(axes) == ["lr", "size", "kind", "d"]
    measured = count - len([i for i in range(count) if i % 7 == 1])
    assert all(len(place.collections[0].get_offsets()) == measured for place in figure.axes)
    assert (axes["lr"].get_xscale(), axes["size"].get_xscale(), axes["d"].get_xscale()) == ("log", "log", "linear")
    best = max(each.value for each in made if each.value is not None)
    assert axes["lr"].collections[1].get_offsets()[0][1] == pytest.approx(best)
    assert [tick.get_text() for tick in axes["kind"].get_xticklabels()] == ["SGD", "AdamW"]


def sweep_in(folder: Path, journal: bool = False) -> Sweep:
    return Sweep(folder, "grid", {"a": Choices(("1", "2", "3"))}, 0, True, 0, {}, journal)


@pytest.mark.parametrize("journal", [False, True])
def test_a_trial_belongs_to_one_process_until_it_dies(tmp_path: Path, journal: bool) -> None:
    one, other = sweep_in(tmp_path / "s", journal), sweep_in(tmp_path / "s", journal)
    first, second = one.claim(), other.claim()
    assert (first.number, first.values, second.number) == (0, {"a": "1"}, 1)
    child = subprocess.Popen(["sleep", "60"], pass_fds=[first.held])
    try:
        os.close(first.held)  # the tool is killed, and the training that it has started goes on
        assert other.claim().number == 2
        assert other.claim() is None
    finally:
        child.kill()
        child.wait()
    again = other.claim()
    assert (again.number, again.values) == (0, {"a": "1"})
    other.finish(again, 0.5)
    one.finish(second, None, optuna.trial.TrialState.FAIL)
    assert one.claim() is None
    states = [(trial.state.name, trial.value) for trial in one.known()]
    assert states == [("COMPLETE", 0.5), ("FAIL", None), ("RUNNING", None)]


def test_a_sweep_goes_on_whatever_json_makes_of_its_settings(tmp_path: Path) -> None:
    settings = {"experiment": {"rates": {1: 0.1, 51: 0.01}, "betas": (0.9, 0.999)}}
    for _ in range(2):
        Sweep(tmp_path / "s", "grid", {"a": Choices(("1", "2"))}, 0, True, 0, settings)
    settings["experiment"]["rates"][51] = 0.02
    with pytest.raises(ValueError, match="is another sweep"):
        Sweep(tmp_path / "s", "grid", {"a": Choices(("1", "2"))}, 0, True, 0, settings)


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_any_seed_will_do(tmp_path: Path, kind: str) -> None:
    sweep = Sweep(tmp_path / "s", kind, {"a": Range(0.0, 1.0, False, False)}, 1, True, 20_260_101, {})
    assert 0 <= float(sweep.claim().values["a"]) <= 1


@pytest.mark.parametrize(("maximize", "best"), [(True, 0.9), (False, 0.1)])
def test_a_search_follows_the_direction_of_its_metric(tmp_path: Path, maximize: bool, best: float) -> None:
    sweep = Sweep(tmp_path / "s", "tpe", {"a": Range(0.0, 1.0, False, False)}, 2, maximize, 0, {})
    for value in (0.9, 0.1):
        sweep.finish(sweep.claim(), value)
    assert sweep.study.best_value == best


def test_another_seed_draws_none_of_the_same_values(tmp_path: Path) -> None:
    drawn = []
    for seed in (0, 1):
        sweep = Sweep(tmp_path / str(seed), "random", {"a": Range(0.0, 1.0, False, False)}, 3, True, seed, {})
        drawn += [sweep.claim().values["a"] for _ in range(3)]
    assert len(set(drawn)) == 6


def test_a_trial_whose_values_were_not_all_drawn_is_drawn_again(tmp_path: Path) -> None:
    space = {"a": Range(0.0, 1.0, False, False), "b": Range(0.0, 1.0, False, False)}
    sweep = Sweep(tmp_path / "s", "random", space, 2, True, 0, {})
    sweep.study.ask({"a": sweep.distributions["a"]})  # killed before b
    claims = [sweep.claim(), sweep.claim()]
    assert [claim.number for claim in claims] == [1, 2]
    assert sweep.claim() is None
    assert len(sweep.known()) == 2


Start = Callable[..., subprocess.Popen]


def kill(process: subprocess.Popen) -> None:
    """End the tool and the training that it has started, at once."""
    with suppress(psutil.NoSuchProcess):
        for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            each.kill()
    process.wait()


@pytest.fixture
def start(tmp_path: Path, shards: Path) -> Iterator[Start]:
    """The tool in a process of its own, which trains in another."""
    tool = [sys.executable, str(PROJECT / "tools/sweep.py"), *CONFIG, "--data.root", str(shards), *QUICK]
    quiet = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stdout": subprocess.PIPE, "text": True}
    started = []

    def start(*args: str) -> subprocess.Popen:
        started.append(subprocess.Popen([*tool, *args], **quiet))
        return started[-1]

    yield start
    for process in started:
        kill(process)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_in_the_middle_of_a_trial(start: Start, tmp_path: Path) -> None:
    grid = ["--grid", f"{LR}=0.01,0.02", "--trainer.max_epochs", "15"]
    runs = tmp_path / "runs/quickstart_digits"
    process = start(*grid)
    wait_for(lambda: (runs / "sweep-000/checkpoints/last.ckpt").exists())
    kill(process)
    cut = len(json.loads((runs / "sweep-000/history.json").read_text()))
    assert cut < 15
    ended = start(*grid)
    ended.communicate()
    assert ended.returncode == 0
    assert len(results(tmp_path)) == 2
    sessions = json.loads((runs / "sweep-000/sessions.json").read_text())
    assert len(sessions) == 2  # gone on with, not begun again
    assert sessions[-1]["last_epoch"] == 15
    assert len(json.loads((runs / "sweep-001/sessions.json").read_text())) == 1


@pytest.mark.slow
def test_two_processes_share_the_trials(start: Start, tmp_path: Path) -> None:
    grid = ["--grid", f"{LR}=0.01,0.02,0.03,0.04", "--trainer.max_epochs", "1"]
    processes = [start(*grid) for _ in range(2)]
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    begun = [line for text in printed for line in text.splitlines() if line.startswith("trial ")]
    assert len(begun) == len(set(begun)) == 4
    assert all("trial " in text for text in printed)  # both had some
    found = results(tmp_path)
    assert [each["state"] for each in found] == ["complete"] * 4
    assert sorted(each["trial"] for each in found) == [0, 1, 2, 3]
    assert all(math.isfinite(each["value"]) for each in found)


@pytest.mark.slow
def test_a_real_trial_and_one_that_diverges(start: Start, tmp_path: Path) -> None:
    grid = ["--grid", f"{LR}=0.01,1e30", "--trainer.max_epochs", "1"]
    process = start(*grid)
    printed = process.communicate()[0]
    assert process.returncode == 0
    good, bad = results(tmp_path)
    history = json.loads((tmp_path / "runs/quickstart_digits/sweep-000/history.json").read_text())
    assert (good["value"], good["state"]) == (history[0]["val/top1"], "complete")
    assert bad["state"] == "failed"
    assert "the loss is" in bad["note"]
    assert "the sweep goes on" in printed
    assert not list((tmp_path / "runs").rglob("report/metrics.json"))  # nothing was tested
