"""What a test writes down about each picture."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from torch import nn

from callbacks import with_those_of_every_run
from callbacks.prediction_store import OF_VALIDATION, PROBABILITIES, Predictions
from datamodules import Digits
from lightning_modules import Classifier


class Linear(Classifier):
    """A linear classifier of small pictures."""

    def __init__(self) -> None:
        super().__init__(10, 8)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))


def evaluate(folder: Path, shards: Path, **flags: int) -> tuple[Trainer, Linear]:
    seed_everything(3, verbose=False)
    model, data = Linear(), Digits(root=str(shards), image_size=8, batch_size=64)
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        callbacks=with_those_of_every_run([], "", ""),
        **flags,
    )
    trainer.test(model, datamodule=data, verbose=False)
    return trainer, model


def test_probabilities_are_those_of_the_stored_rows(tmp_path: Path, shards: Path) -> None:
    trainer, model = evaluate(tmp_path, shards)
    found, data = Predictions.load(tmp_path), trainer.datamodule
    images, labels = data.splits["test"].__getitems__(range(450))
    with torch.no_grad():
        expected = model(data._normalize(images, torch.float32)).softmax(dim=1)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.probabilities.dtype == np.float32
    assert found.rows.tolist() == list(range(450))
    assert found.labels.tolist() == labels.tolist()
    assert found.names == list(data.classes)
    assert found.split == data.checksum_of("test") != data.checksum_of("val")
    accuracy = (found.probabilities.argmax(axis=1) == found.labels).mean()
    assert accuracy == pytest.approx(trainer.callback_metrics["test/top1"].item())
    assert found.right().mean() == accuracy
    assert (found.packed_set, found.epoch) == (data.folder.name, None)
    assert [path.name for path in (tmp_path / "report").glob("prob*")] == ["probabilities.h5"]


def test_the_same_pictures_have_the_same_checksum(tmp_path: Path, shards: Path) -> None:
    sets = [Digits(root=str(tmp_path), image_size=8), Digits(root=str(tmp_path), image_size=8, validate_on_test=True)]
    sets.append(Digits(root=str(tmp_path), image_size=8, split_seed=1))
    for data in sets:
        data.prepare_data()
    checksums = [data.checksum_of("test") for data in sets]
    assert checksums[0] == checksums[1] != checksums[2]
    assert sets[0].checksum_of("train") != sets[1].checksum_of("train")


def test_a_part_of_the_split(tmp_path: Path, shards: Path) -> None:
    evaluate(tmp_path, shards, limit_test_batches=2)
    assert Predictions.load(tmp_path).rows.tolist() == list(range(128))


def test_the_epoch_of_the_checkpoint(tmp_path: Path, shards: Path) -> None:
    trainer, model = evaluate(tmp_path, shards)
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    for epochs in (2, 3):
        checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"] = epochs
        torch.save(checkpoint, path)
        trainer.test(model, datamodule=trainer.datamodule, ckpt_path=str(path), verbose=False)
        assert Predictions.load(tmp_path).epoch == epochs
    trainer.test(model, datamodule=trainer.datamodule, verbose=False)
    assert Predictions.load(tmp_path).epoch is None


def test_a_validation_that_is_asked_for(tmp_path: Path, shards: Path) -> None:
    trainer, model = evaluate(tmp_path, shards)
    data = trainer.datamodule
    tested = Predictions.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"main.py validate --run .* writes it"):
        Predictions.load(tmp_path, OF_VALIDATION)
    trainer.validate(model, datamodule=data, verbose=False)
    found = Predictions.load(tmp_path, OF_VALIDATION)
    images, labels = data.splits["val"].__getitems__(range(135))
    with torch.no_grad():
        expected = model(data._normalize(images, torch.float32)).softmax(dim=1)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.labels.tolist() == labels.tolist()
    assert found.split == data.checksum_of("val")
    assert Predictions.load(tmp_path).split == tested.split == data.checksum_of("test")
    trainer.test(model, datamodule=data, verbose=False)
    np.testing.assert_array_equal(Predictions.load(tmp_path).probabilities, tested.probabilities)
    assert len(Predictions.load(tmp_path, OF_VALIDATION).rows) == 135


def test_training_leaves_no_probabilities(tmp_path: Path, shards: Path) -> None:
    trainer, model = evaluate(tmp_path / "a", shards, max_epochs=1, limit_train_batches=1)
    trainer.fit(model, datamodule=trainer.datamodule)
    assert [path.name for path in (tmp_path / "a/report").glob("*prob*")] == ["probabilities.h5"]


def test_folds_are_kept(tmp_path: Path) -> None:
    probabilities, folds = np.eye(3, dtype=np.float32), np.array([1, 1, 2])
    found = Predictions(probabilities, np.array([0, 1, 0]), np.arange(3), ["a", "b", "c"], "none", folds=folds)
    found.save(tmp_path / OF_VALIDATION)
    assert Predictions.load(tmp_path, OF_VALIDATION).folds.tolist() == [1, 1, 2]


def test_the_surest_mistakes_come_first() -> None:
    probabilities = np.array([[0.4, 0.6], [0.1, 0.9], [0.9, 0.1], [np.nan, 1.0], [0.2, 0.8]], np.float32)
    found = Predictions(probabilities, np.arange(5), np.array([0, 0, 0, 0, 0]), ["a", "b"], "")
    assert found.surest_mistakes().tolist() == [1, 4, 0]


def test_a_probability_that_is_no_number_is_wrong() -> None:
    probabilities = np.array([[0.9, 0.1], [np.nan, np.nan], [0.9, 0.1]], np.float32)
    found = Predictions(probabilities, np.arange(3), np.array([0, 0, 1]), ["a", "b"], "none")
    assert found.right().tolist() == [True, False, False]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"main.py test --run .* writes it"):
        Predictions.load(tmp_path)
    path = tmp_path / PROBABILITIES
    path.parent.mkdir()
    path.write_bytes(b"no file")
    with pytest.raises(ValueError, match="is damaged"):
        Predictions.load(tmp_path)
    with h5py.File(path, "w") as file:
        file["rows"] = np.arange(3)
    with pytest.raises(ValueError, match="is damaged"):
        Predictions.load(tmp_path)
