"""Cross-validation: each development sample is predicted once, by the network that has not seen it."""

import json
import shutil
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
def validate(call: Callable, commands: list[Sequence[str]]) -> Callable:
    """Calls the tool; what it prints, of a refusal the error, and the commands that it gave."""

    def validate(*args: object) -> tuple[str, list[Sequence[str]]]:
        commands.clear()
        config = ["--config", PROJECT / "experiments/quickstart_digits.yaml"]
        status, out, err = call(cross_validate, *config, *QUICK, *QUIET, *args)
        return err if status else out, list(commands)

    return validate


def test_every_sample_is_out_of_fold_once(validate: Callable, tmp_path: Path) -> None:
    printed, commands = validate()
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
    again = validate()[1]
    assert [command[command.index("--data.fold") + 1] for command in again] == ["2"]
    np.testing.assert_array_equal(Predictions.load(runs / "folds3", OF_VALIDATION).probabilities, found.probabilities)

    part = Predictions.load(runs / "fold1of3", OF_VALIDATION)
    for name in ("probabilities", "rows", "labels"):
        setattr(part, name, getattr(part, name)[:64])
    part.save(runs / "fold1of3" / OF_VALIDATION)
    assert "has predicted 64 of 449 samples of its fold" in validate()[0]


def test_folds_of_different_pictures_are_refused(validate: Callable, tmp_path: Path) -> None:
    one = ["--trainer.limit_train_batches", "1", "--trainer.max_epochs", "1"]
    validate(*one)
    assert "fold1of3 was begun with data.init_args.split_seed 42, not 7;" in validate(*one, "--data.split_seed", "7")[0]
    run = tmp_path / "runs/quickstart_digits/fold3of3"
    resplit = Digits(image_size=16, folds=3, fold=3, split_seed=7)
    resplit.prepare_data()
    replace(Predictions.load(run, OF_VALIDATION), packed_set=resplit.folder.name).save(run / OF_VALIDATION)
    assert "the other folds are of different pictures" in validate(*one)[0]


def test_folds_are_judged_by_their_last_epoch(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("trainer: {max_epochs: 2}")
    probabilities = np.array([[0.75, 0.25], [0.25, 0.75]], np.float32)
    predicted = Predictions(probabilities, np.arange(2), np.array([0, 0]), ["a", "b"], "split")
    predicted.save(tmp_path / OF_VALIDATION)
    history = [{"epoch": epoch, "val/top1": top1, "train/top1": 1.0} for epoch, top1 in ((1, 0.9), (2, 0.5))]
    history[-1]["val/loss"] = 1.25
    (tmp_path / "history.json").write_text(json.dumps(history))
    assert cross_validate.metrics_of(tmp_path) == {"val/top1": 0.5, "val/loss": 1.25}  # the fold chooses no epoch
    history.append({"epoch": 3, "train/top1": 1.0})  # which was not validated
    (tmp_path / "history.json").write_text(json.dumps(history))
    assert cross_validate.metrics_of(tmp_path) == {"val/top1": 0.5}


def test_refused(validate: Callable, tmp_path: Path) -> None:
    assert "leave out one of both" in validate("--data.validate_on_test", "true")[0]
    assert "leave out --data.fold: this tool gives it" in validate("--data.init_args.fold", "2")[0]
    assert "--folds: 1 is less than 2" in validate("--folds", "1")[0]
    assert not (tmp_path / "runs").exists()
