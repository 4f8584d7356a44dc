"""Logistic regression on features: against scikit-learn's own search, whole and by batches; what is refused."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datamodules import features
from datamodules.features import FeatureTable, FeatureWriter
from tools import train_linear as tool
from tools.train_linear import LinearModel

Train = Callable[..., tuple[int, str, str]]
ROWS = {"train": 240, "val": 60, "test": 120}


def made(path: Path, classes: int = 7, splits: dict[str, int] = ROWS, unfinished: int = 0) -> dict[str, np.ndarray]:
    """A file of overlapping clouds; features ``x`` and labels ``y`` of each split."""
    rng = np.random.default_rng(0)
    rows = sum(splits.values())
    labels = rng.permutation(np.arange(rows) % classes)
    centres = rng.normal(size=(classes, 20))
    x = (0.5 + centres[labels] + 2.5 * rng.normal(size=(rows, 20))) * np.linspace(0.5, 1.5, 20)
    x = x.astype(np.float32)
    split = np.repeat(np.arange(len(splits)), list(splits.values()))
    names = [f"class {number}" for number in range(classes)]
    features.create(path, FeatureTable(x.shape, "float32", labels, names, split, list(splits), {"layer": "net.1"}))
    with FeatureWriter(path) as writer:
        writer.append(x[: rows - unfinished])
    parts = {}
    for number, name in enumerate(splits):
        parts |= {f"x_{name}": x[split == number], f"y_{name}": labels[split == number]}
    return parts


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """The tool's exit status, output and error."""

    def call(*arguments: object, file: Path = tmp_path / "f.h5") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tools/train_linear.py", *map(str, (file, *arguments))])
        capsys.readouterr()
        try:
            tool.main()
        except SystemExit as end:
            return 1, capsys.readouterr().out, f"{end.code} {capsys.readouterr().err}"
        return 0, *capsys.readouterr()

    return call


def record_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "f.linear.json").read_text())


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("minibatch", [False, True])
@pytest.mark.parametrize("classes", [2, 7])
def test_it_is_scikit_learns_search(
    tmp_path: Path, train: Train, standardize: bool, minibatch: bool, classes: int
) -> None:
    data, grid = made(tmp_path / "f.h5", classes), [0.001, 0.1, 10.0]
    flags = ["--standardize"] * standardize + ["--minibatch", "--batch-size", "100"] * minibatch
    status, told, error = train("--grid", *grid, *flags)
    assert status == 0, error
    steps = [StandardScaler()] if standardize else []
    pipeline = make_pipeline(*steps, LogisticRegression(max_iter=1000))
    search = GridSearchCV(pipeline, {"logisticregression__C": grid}, cv=3).fit(data["x_train"], data["y_train"])
    record, model = record_of(tmp_path), LinearModel.load(tmp_path / "f.linear.npz")
    scores = record["cross_validation"]
    np.testing.assert_allclose([each["mean"] for each in scores], search.cv_results_["mean_test_score"], atol=0.005)
    assert len(set(search.cv_results_["mean_test_score"])) > 1  # C matters here
    assert record["C"] == search.best_params_["logisticregression__C"]
    logits = model.logits(data["x_test"])
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, search.predict_proba(data["x_test"]), atol=0.02)
    order = np.argsort(-logits, axis=1)
    assert record["test"]["rank1"] == np.mean(order[:, 0] == data["y_test"])
    assert record["test"]["rank1"] == pytest.approx(search.score(data["x_test"], data["y_test"]), abs=0.01)
    if classes == 2:
        assert record["test"]["rank5"] is None
    else:
        assert record["test"]["rank5"] == np.mean(
            [label in row for label, row in zip(data["y_test"], order[:, :5], strict=True)]
        )
        assert record["test"]["rank1"] < record["test"]["rank5"] < 1
        by_hand = np.mean(data["y_test"][order[:, 0] == 3] == 3)
        assert record["test"]["by_class"]["class 3"]["precision"] == pytest.approx(by_hand)
    assert record["classes"] == [f"class {number}" for number in range(classes)]
    assert record["converged"]
    assert record["features"]["layer"] == "net.1"
    assert "class 1" in told
    assert "rank-1" in told


def test_by_batches_the_optimum_is_the_same(tmp_path: Path, train: Train) -> None:
    """Of the objective itself, not only of the accuracy; and whatever the size of the batches."""
    data = made(tmp_path / "f.h5")
    models = []
    for flags in ([], ["--minibatch", "--batch-size", "7"], ["--minibatch", "--batch-size", "1000"]):
        assert train("--grid", 1, "--standardize", *flags)[0] == 0
        models.append(LinearModel.load(tmp_path / "f.linear.npz"))

    def objective(model: LinearModel) -> float:
        logits = model.logits(data["x_train"])
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return log_loss(data["y_train"], probabilities, normalize=False) + 0.5 * np.square(model.weights).sum()

    whole, sevens, thousands = models
    assert objective(sevens) == pytest.approx(objective(whole), rel=1e-4)
    assert objective(LinearModel(1.2 * whole.weights, whole.bias, whole.mean, whole.scale)) > 1.001 * objective(whole)
    np.testing.assert_allclose(sevens.weights, thousands.weights, atol=1e-3)
    np.testing.assert_allclose(sevens.mean, data["x_train"].mean(axis=0), atol=1e-6)


def test_of_equals_the_smallest_c_is_taken(tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(task: object, fit: object, rows: object, grid: Sequence[float], folds: int) -> list[dict[str, object]]:
        return [{"C": c, "mean": 0.5 if c < 100 else 0.4, "converged": False} for c in grid]

    monkeypatch.setattr(tool, "cross_validated", scores)
    made(tmp_path / "f.h5")
    assert train("--grid", 10, 1000, 0.1, 1)[0] == 0
    assert record_of(tmp_path)["C"] == 0.1
    assert record_of(tmp_path)["converged"] is True  # the model that is written, whatever the folds did


def test_scores_are_of_the_rows_held_out_and_tell_of_any_fold_that_has_not_converged() -> None:
    labels, fitted_to = np.array([9, 0, 1, 0, 1, 0, 1]), []

    def fit(rows: np.ndarray, c: float) -> tool.Fitted:
        fitted_to.append(rows.tolist())
        return tool.Fitted(None, converged=len(fitted_to) > 1)

    task = SimpleNamespace(labels=labels, logits=lambda model, rows: np.eye(2)[0 * rows])  # all are of class 0
    (score,) = tool.cross_validated(task, fit, np.arange(1, 7), [1.0], folds=3)
    assert score == {"C": 1.0, "accuracies": [0.5] * 3, "mean": 0.5, "converged": False}
    assert fitted_to == [[3, 4, 5, 6], [1, 2, 5, 6], [1, 2, 3, 4]]


def test_as_many_rows_as_folds_are_enough() -> None:
    table = SimpleNamespace(shape=(6, 2), label_names=["a", "b"])
    task = SimpleNamespace(labels=np.repeat([0, 1], 3), classes=2, reader=SimpleNamespace(table=table))
    tool.check(task, np.arange(6), folds=3, minibatch=True)
    with pytest.raises(ValueError, match="a has 3 training rows, fewer than the 4 folds"):
        tool.check(task, np.arange(6), folds=4, minibatch=True)


def test_rank_5_is_of_more_than_five_classes() -> None:
    ranked = [tool.figures(-np.abs(np.arange(n) - np.arange(n)[:, None]), np.arange(n), "abcdef"[:n]) for n in (5, 6)]
    assert [found["rank5"] for found in ranked] == [None, 1]
    last = tool.figures(np.arange(6)[None], np.array([0]), "abcdef")  # the right one is sixth
    assert (last["rank1"], last["rank5"]) == (0, 0)
    assert tool.figures(np.zeros((1, 6)), np.array([0]), "abcdef")["rank1"] == 1  # of equals the first


def test_validation_rows_train_only_where_asked(tmp_path: Path, train: Train) -> None:
    data = made(tmp_path / "f.h5")
    x = np.concatenate([data["x_train"], data["x_val"]])
    for flags, rows in (([], data["x_train"]), (["--with-val"], x)):
        assert train("--grid", 0.1, "--standardize", *flags)[0] == 0
        np.testing.assert_allclose(LinearModel.load(tmp_path / "f.linear.npz").mean, rows.mean(axis=0), atol=1e-6)
        assert record_of(tmp_path)["training_samples"] == len(rows)


def test_the_saved_model_predicts_as_the_fitted_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    model = LinearModel(*(rng.normal(size=shape).astype(np.float32) for shape in ((3, 5), 3, 5)), np.full(5, 2.0))
    model.save(tmp_path / "model.npz")
    x = rng.normal(size=(9, 5))
    loaded = LinearModel.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.logits(x), model.logits(x))
    expected = (x - model.mean) / 2 @ model.weights.T + model.bias
    np.testing.assert_allclose(loaded.logits(x), expected, rtol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["model.npz"]


def test_pickled_arrays_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", weights=np.array([{}], dtype=object), bias=1, mean=1, scale=1)
    with pytest.raises(ValueError, match="allow_pickle"):
        LinearModel.load(tmp_path / "model.npz")


def test_a_constant_feature_does_no_harm(tmp_path: Path, train: Train) -> None:
    made(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        file["features"][:, 3] = 0.1
        file["features"][7, 3] = np.nextafter(np.float32(0.1), np.float32(1))  # the last bit tells nothing
    for flags in ([], ["--minibatch"]):
        assert train("--grid", 0.1, "--standardize", *flags)[0] == 0
        assert record_of(tmp_path)["test"]["rank1"] > 0.5
        assert LinearModel.load(tmp_path / "f.linear.npz").scale[3] == 1


@pytest.mark.parametrize("minibatch", [False, True])
def test_an_optimiser_that_was_stopped_early_is_told(tmp_path: Path, train: Train, minibatch: bool) -> None:
    made(tmp_path / "f.h5")
    status, told, _ = train("--grid", 1000, "--max-iter", 2, *["--minibatch"] * minibatch)
    assert status == 0
    assert "not converged; --max-iter allows more" in told
    assert record_of(tmp_path)["converged"] is False


def test_memory_that_is_too_small_is_noticed(tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "f.h5")
    monkeypatch.setattr(tool, "free_memory", lambda: 20_000)
    assert "take --minibatch" in train("--grid", 1)[2]
    assert train("--grid", 1, "--minibatch")[0] == 0


def test_mistakes_are_named(tmp_path: Path, train: Train) -> None:
    assert "none.h5 is no file" in train(file=tmp_path / "none.h5")[2]
    (tmp_path / "text.h5").write_text("text")
    assert "text.h5 is damaged, or is no feature file" in train(file=tmp_path / "text.h5")[2]
    made(tmp_path / "f.h5")
    content = (tmp_path / "f.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[:-100])
    assert "cut.h5 is damaged, or is no feature file" in train(file=tmp_path / "cut.h5")[2]
    for name, row, value in (("labels", 5, 7), ("split", 5, 3), ("labels", 5, -1)):
        (tmp_path / "f.h5").write_bytes(content)
        with h5py.File(tmp_path / "f.h5", "r+") as file:
            file[name][row] = value
        assert "a label or a split has no name" in train()[2]
    (tmp_path / "f.h5").write_bytes(content)
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        file["features"][5, 5] = np.nan
    assert "f.h5 is damaged: a feature is not finite" in train("--grid", 1)[2]
    made(tmp_path / "f.h5", unfinished=1)
    assert "f.h5 is not finished: 419 of 420 rows" in train()[2]
    made(tmp_path / "f.h5", splits={"train": 240, "val": 60})
    assert "no split 'test' among the features; there are train, val" in train()[2]
    made(tmp_path / "f.h5", splits={"train": 240, "test": 60})
    assert "no split 'val'" in train("--with-val")[2]
    made(tmp_path / "f.h5", splits={"train": 14, "test": 60})
    assert "training rows, fewer than the 3 folds" in train()[2]
    made(tmp_path / "f.h5")
    for flags in (["--grid", 0], ["--grid", -1], ["--folds", 1], ["--grid", "nan"], ["--max-iter", 0]):
        assert train(*flags)[0] == 1
    assert not list(tmp_path.glob("*.linear.*"))
