"""What a run's folder says of the run."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from callbacks.prediction_store import OF_VALIDATION, PROBABILITIES, Predictions
from callbacks.provenance import commit, differences
from callbacks.run_folder import LAST, new_run
from pictures import data_of
from run_record import RunRecord, chosen_epoch, is_outdated


def test_nested_settings() -> None:
    one = {"a": {"b": 1, "c": [1]}, "d": 2}
    other = {"a": {"b": 1, "c": [2]}, "e": None, "f": 3}
    assert list(differences(one, other)) == [("a.c", [1], [2]), ("d", 2, None), ("f", None, 3)]


def test_settings_of_many() -> None:
    assert list(differences({"a": 1, "b": {"c": 1}}, {"a": 1, "b": {"c": 1}}, {"a": 1, "b": {"c": 2}})) == [
        ("b.c", 1, 1, 2)
    ]
    assert list(differences({"a": {"b": 1}}, {"a": {"b": 2}}, {"a": None})) == [("a", {"b": 1}, {"b": 2}, None)]
    assert list(differences({"a": 1})) == []


def test_the_commit_and_whether_code_differs_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # of a hook that runs the tests
        monkeypatch.delenv(name)

    def git(*words: str) -> str:
        settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *settings, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert commit(tmp_path) is None
    (tmp_path / "docs").mkdir()
    for file in ("main.py", "docs/results.md"):
        (tmp_path / file).write_text("1")
        git("add", ".")
        git("commit", "-m", file)
    head = git("rev-parse", "HEAD")
    for file, expected in (("untracked", head), ("docs/results.md", head), ("main.py", f"{head}+changes")):
        (tmp_path / file).write_text("2")
        assert commit(tmp_path) == expected


def test_the_epoch_that_is_tested() -> None:
    history = [{"epoch": 1, "val/top1": 0.5}, {"epoch": 2, "val/top1": 0.7}, {"epoch": 3, "val/top1": None}]
    assert chosen_epoch(history, validates_on_test=False)["epoch"] == 2
    assert chosen_epoch(history, validates_on_test=True)["epoch"] == 3


def test_as_far_as_the_run_got(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run's folder"):
        RunRecord.load(tmp_path)
    (tmp_path / "config.yaml").write_text("trainer: {max_epochs: 3}")
    record = RunRecord.load(tmp_path)
    assert [sentence.split(":")[0] for sentence in record.missing] == [
        "There is no history.json",
        "There is no sessions.json",
        "There is no report/metrics.json",
    ]
    assert (record.epochs, record.seconds, record.predictions) == (0, 0, None)
    (tmp_path / "history.json").write_text('[{"epoch": 1}, {"epoch": 2}]')
    (tmp_path / "sessions.json").write_text('[{"seconds": 2.5}, {"seconds": 4}]')
    record = RunRecord.load(tmp_path)
    assert (record.epochs, record.seconds) == (2, 6.5)
    assert record.missing[1:] == ["Only 2 of 3 epochs are trained."]


def test_commands_in_messages_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/digits/a run")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / LAST).touch()
    (folder / "config.yaml").write_text("data: {class_path: datamodules.Digits}")
    assert f"main.py test --run '{folder}' does that" in " ".join(RunRecord.load(folder).missing)
    with pytest.raises(FileNotFoundError, match=f"main.py validate --run '{folder}' writes it"):
        Predictions.load(folder, OF_VALIDATION)
    with pytest.raises(FileNotFoundError, match=f"main.py with --run '{folder}' packs"):
        data_of(folder)
    with pytest.raises(FileExistsError, match=f"fit --continue '{folder}' goes on"):
        new_run("digits", "a run", fit=True)


@pytest.mark.parametrize("text", ["trainer: [", "only words"])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="config.yaml is no"):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize(
    ("epoch", "name", "outdated"),
    [
        *((1, PROBABILITIES, True), (2, PROBABILITIES, False), (3, PROBABILITIES, True)),
        *((2, OF_VALIDATION, True), (3, OF_VALIDATION, False), (4, OF_VALIDATION, True)),
    ],
)
def test_a_test_of_another_checkpoint_is_outdated(tmp_path: Path, epoch: int, name: str, outdated: bool) -> None:
    (tmp_path / "config.yaml").write_text("trainer: {max_epochs: 3}")
    assert not is_outdated(tmp_path, name)  # nothing is known
    accuracies = enumerate((0.5, 0.7, 0.6), start=1)
    (tmp_path / "history.json").write_text(json.dumps([{"epoch": n, "val/top1": top1} for n, top1 in accuracies]))
    rows = np.arange(2)
    Predictions(np.full((2, 2), 0.5, np.float32), rows, rows, ["a", "b"], "split", epoch=epoch).save(tmp_path / name)
    assert is_outdated(tmp_path, name) == outdated


@pytest.mark.parametrize(("epoch", "outdated"), [(2, True), (3, False)])
def test_the_last_checkpoint_is_tested_where_the_test_split_validates(
    tmp_path: Path, epoch: int, outdated: bool
) -> None:
    (tmp_path / "config.yaml").write_text("data: {init_args: {validate_on_test: true}}")
    history = [{"epoch": n, "val/top1": top1} for n, top1 in ((1, 0.5), (2, 0.7), (3, 0.6))]
    (tmp_path / "history.json").write_text(json.dumps(history))
    rows = np.arange(2)
    found = Predictions(np.full((2, 2), 0.5, np.float32), rows, rows, ["a", "b"], "split", epoch=epoch)
    found.save(tmp_path / PROBABILITIES)
    assert is_outdated(tmp_path) == outdated
