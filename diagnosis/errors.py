"""The errors of a run: from the files in its folder, or measured anew."""

from pathlib import Path

import numpy as np

from callbacks import run_folder
from callbacks.prediction_store import PROBABILITIES, Predictions
from callbacks.run_folder import METRICS
from callbacks.training_monitor import HISTORY
from diagnosis.gaps import Measured
from diagnosis.run import Run, read
from lightning_modules.saved import saved_network
from pictures import listed, named_picture
from predictor import Predictor, default_device

SAMPLE, BATCH = 5_000, 100


def tested(folder: Path, of: str) -> Measured:
    """The error of the test in a folder."""
    metrics = read(folder / METRICS)
    if metrics.get("test/top1") is None:
        raise ValueError(f"{folder / METRICS} has no test/top1; main.py test writes it")
    return Measured(of, 1 - metrics["test/top1"], metrics["samples"], METRICS if of == "test" else str(folder))


def errors_of(run: Run, measure: bool, train_val: Path | None) -> list[Measured]:
    """Training, training-validation, validation, test: those that are known, in this order."""
    found = [measured_training(run) if measure else recorded_training(run)]
    if train_val:
        found.append(training_validation(run, train_val))
    record = run.best
    if record.get("val/top1") is not None and not run.data.validate_on_test:
        origin = f"{HISTORY}, epoch {record['epoch']}"
        found.append(Measured("validation", 1 - record["val/top1"], run.pictures("val"), origin))
    if (run.folder / METRICS).is_file():
        found.append(tested(run.folder, "test"))
    return found


def recorded_training(run: Run) -> Measured:
    """What the history says of the best epoch.

    Raises:
        ValueError: it has no training accuracy.
    """
    record = run.best
    if record.get("train/top1") is None:
        raise ValueError(f"{run.folder / HISTORY} has no train/top1 of epoch {record['epoch']}; take --measure")
    origin = f"{HISTORY}, epoch {record['epoch']}, while weights change"
    hard = bool(run.hardships)
    return Measured("training", 1 - record["train/top1"], run.pictures("train"), origin, hard)


def measured_training(run: Run) -> Measured:
    """What the best checkpoint says of training pictures as they are.

    Raises:
        ValueError: the packed set is another than that it was trained on.
    """
    predictor, packed_set = predictor_of(run.folder)
    data = run.data
    if packed_set != data.folder.name:
        raise ValueError(f"the network was trained on {packed_set}, and {run.folder} names {data.folder.name} now")
    data.prepare_data()
    data.setup("test")
    train = data.splits["train"]
    rows = np.sort(stratified(train.labels, SAMPLE))
    batches = (train.__getitems__(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH))
    wrong = sum(wrong_of(predictor, list(images.numpy()), named.numpy()) for images, named in batches)
    return Measured("training", wrong / len(rows), len(rows), "best checkpoint, pictures as they are")


def training_validation(run: Run, place: Path) -> Measured:
    """The error on the pictures below a folder, or that of a test of the same network.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is the run itself, a test of another network, or its subfolders are other classes.
    """
    of = "training-validation"
    if not place.is_dir():
        raise FileNotFoundError(f"{place} is no folder; --train-val names one of pictures, or of a test")
    if (place / METRICS).is_file():
        config = run_folder.settings_of(place)
        if place.resolve() == run.folder.resolve():
            raise ValueError(f"{place} is the run itself; --train-val takes a test of it on other pictures")
        if any(config.get(name) != run.config.get(name) for name in ("model", "seed_everything")):
            raise ValueError(f"{place} is a test of another network than that of {run.folder}")
        both = [each / PROBABILITIES for each in (place, run.folder)]
        if all(map(Path.is_file, both)) and len({Predictions.load(each).split for each in (place, run.folder)}) == 1:
            raise ValueError(f"{place} is a test on the run's own test pictures; --train-val takes one on others")
        return tested(place, of)
    predictor, _ = predictor_of(run.folder)
    folders = sorted(folder for folder in place.iterdir() if folder.is_dir())
    if not folders or (unknown := {folder.name for folder in folders} - {*predictor.classes}):
        what = f"the folder {min(unknown)}, which is no class" if folders else "no folder"
        raise ValueError(f"{place} holds {what}; it needs a subfolder of pictures for each of {predictor.classes[:20]}")
    files = [(file, predictor.classes.index(folder.name)) for folder in folders for file in listed([str(folder)])]
    wrong = 0
    for start in range(0, len(files), BATCH):
        names, labels = zip(*files[start : start + BATCH], strict=True)
        images = [named_picture(Path(name), predictor.stored_size) for name in names]
        wrong += wrong_of(predictor, images, np.array(labels))
    return Measured(of, wrong / len(files), len(files), str(place))


def predictor_of(folder: Path) -> tuple[Predictor, str]:
    """A run's network with its preprocessing, where it is fast, and the name of the packed set it was trained on."""
    network, preprocessing = saved_network(run_folder.checkpoint_of(folder))
    return Predictor(network, preprocessing).eval().to(default_device()), preprocessing["packed_set"]


def wrong_of(predictor: Predictor, images: list[np.ndarray], labels: np.ndarray) -> int:
    """How many pictures are given another name."""
    return int((predictor.probabilities(images).argmax(axis=1) != labels).sum())


def stratified(labels: np.ndarray, most: int) -> np.ndarray:
    """Rows of at most so many samples, each class with its share; rows are stored in random order."""
    order = np.argsort(labels, kind="stable")
    return order if len(order) <= most else order[np.linspace(0, len(order) - 1, most).astype(int)]
