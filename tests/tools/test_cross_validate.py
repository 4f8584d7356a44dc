"""Cross-validation: each development sample is predicted once, by the network that has not seen it."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import main
from callbacks.prediction_store import OF_VALIDATION, Predictions
from datamodules import Digits
from predictor import Predictor
from tools import cross_validate

PROJECT = Path(main.__file__).parent
QUICK = ["--data.image_size", "16", "--trainer.limit_train_batches", "4", "--trainer.accelerator", "cpu"]
QUICK += ["--folds", "3", "--trainer.max_epochs", "2"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


@pytest.fixture
def call(
    commands: list[Sequence[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable:
    """The tool in this process; what it prints, and the commands that it gave."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[str, list[Sequence[str]]]:
        config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml")]
        monkeypatch.setattr(sys, "argv", ["cross_validate.py", *config, *QUICK, *QUIET, *args])
        capsys.readouterr()
        commands.clear()
        cross_validate.main()
        return capsys.readouterr().out, list(commands)

    return call


def test_every_sample_is_out_of_fold_once(call: Callable, tmp_path: Path) -> None:
    printed, commands = call()
    assert len(commands) == 3
    runs = tmp_path / "runs/quickstart_digits"
    found = Predictions.load(runs / "folds3", OF_VALIDATION)
    assert len(found.rows) == 1797 - 450

    pictures = []
    for fold in range(1, 4):
        data = Digits(image_size=16, folds=3, fold=fold)
        data.setup("test")
        images, labels = data.splits["val"].__getitems__(range(len(data.splits["val"])))
        mine = found.folds == fold
        assert found.rows[mine].tolist() == list(range(len(labels)))
        assert found.labels[mine].tolist() == labels.tolist()
        # the network of the last epoch of the run that trained without them
        checkpoint = runs / f"fold{fold}of3/checkpoints/last.ckpt"
        network = Predictor.load(checkpoint)
        expected = network.probabilities(list(images.numpy()[:50]))
        np.testing.assert_allclose(found.probabilities[mine][:50], expected, atol=1e-4)
        pictures += [image.tobytes() for image in images.numpy()]
    plain = Digits(image_size=16, validate_on_test=True)
    plain.prepare_data()
    plain.setup("test")
    development, _ = plain.splits["train"].__getitems__(range(len(pictures)))
    assert Counter(pictures) == Counter(image.tobytes() for image in development.numpy())

    figures = json.loads((runs / "folds3/cross_validation.json").read_text())
    accuracies = [(found.probabilities.argmax(axis=1) == found.labels)[found.folds == f].mean() for f in (1, 2, 3)]
    assert [run["val/top1"] for run in figures["runs"].values()] == pytest.approx(accuracies)
    top1 = figures["metrics"]["val/top1"]
    assert top1["mean"] == pytest.approx(np.mean(accuracies))
    assert top1["ci95"] == pytest.approx(stats.t.interval(0.95, 2, np.mean(accuracies), stats.sem(accuracies)))
    assert figures["out_of_fold_top1"] == (found.probabilities.argmax(axis=1) == found.labels).mean()
    assert f"{100 * top1['mean']:.2f}" in printed

    # given again after fold 2 was lost: that one alone is trained again
    shutil.rmtree(runs / "fold2of3")
    again = call()[1]
    assert [command[command.index("--data.fold") + 1] for command in again] == ["2"]
    np.testing.assert_array_equal(Predictions.load(runs / "folds3", OF_VALIDATION).probabilities, found.probabilities)

    part = Predictions.load(runs / "fold1of3", OF_VALIDATION)
    for name in ("probabilities", "rows", "labels"):
        setattr(part, name, getattr(part, name)[:64])
    part.save(runs / "fold1of3" / OF_VALIDATION)
    with pytest.raises(SystemExit, match="has predicted 64 of 449 samples of its fold"):
        call()


def test_folds_of_different_pictures_are_refused(call: Callable, tmp_path: Path) -> None:
    one = ["--trainer.limit_train_batches", "1", "--trainer.max_epochs", "1"]
    call(*one)
    with pytest.raises(SystemExit, match=r"fold1of3 is finished, .*split_seed is 42, not 7; choose another --name"):
        call(*one, "--data.split_seed", "7")
    run = tmp_path / "runs/quickstart_digits/fold3of3"
    resplit = Digits(image_size=16, folds=3, fold=3, split_seed=7)
    resplit.prepare_data()
    replace(Predictions.load(run, OF_VALIDATION), packed_set=resplit.folder.name).save(run / OF_VALIDATION)
    with pytest.raises(SystemExit, match="the other folds are of different pictures"):
        call(*one)


def test_refused(call: Callable, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="leave out one of both"):
        call("--data.validate_on_test", "true")
    with pytest.raises(SystemExit):
        call("--folds", "1")
    assert not (tmp_path / "runs").exists()
