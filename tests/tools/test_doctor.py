"""The doctor: silent about a healthy experiment, plain about an ill one."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import main
from callbacks import WholeCheckpointIO
from datamodules import crops
from datamodules.sampling import ShuffledKeys

PROJECT = Path(main.__file__).parent
DIGITS = "experiments/quickstart_digits.yaml"
AUGMENTED = ["--data.batch_augment.flip", "0.5", "--data.batch_augment.rotation", "10"]
UNSEEDED = '''
import albumentations as A
import numpy as np

class Unseeded(A.ImageOnlyTransform):
    """Draws from numpy's global state, which every loader process has of its own."""
    def apply(self, img, **params):
        return np.roll(img, np.random.randint(32), axis=0)
'''


@dataclass
class Visit:
    """What a visit gave."""

    status: int | str
    out: str
    err: str


@pytest.fixture
def doctor(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., Visit]:
    (tmp_path / "unseeded.py").write_text(UNSEEDED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(PROJECT)
    spec = importlib.util.spec_from_file_location("doctor", PROJECT / "tools/doctor.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def visit(*args: str) -> Visit:
        with pytest.raises(SystemExit) as ended:
            module.main(args)
        return Visit(ended.value.code, *capsys.readouterr())

    return visit


@pytest.mark.parametrize("flags", [[], [*AUGMENTED, "--data.batch_size", "63"]])
def test_a_healthy_experiment(doctor: Callable[..., Visit], shards: Path, tmp_path: Path, flags: list[str]) -> None:
    done = doctor(DIGITS, "--data.root", str(shards if flags else tmp_path), *flags)
    assert done.status == 0, done.out + done.err
    assert ("; verified in " if flags else "; packed in ") in done.out
    assert done.out.count("ok ") == 5
    assert "wrong" not in done.out
    assert ("no augmentation" in done.out) == (not flags)


def test_networks_that_train_against_each_other(doctor: Callable[..., Visit], shards: Path) -> None:
    flags = ["--data.root", str(shards), "--data.image_size", "32", "--data.validate_on_test", "false"]
    done = doctor("experiments/dcgan_digits.yaml", *flags)
    assert done.status == 0, done.out + done.err
    assert "not tried: a DCGAN has more than one loss" in done.out


def test_names_with_brackets_are_shown_as_they_are(doctor: Callable[..., Visit], tmp_path: Path) -> None:
    source = str(tmp_path / "[/x]")
    done = doctor("experiments/minivggnet_cifar10.yaml", "--data.root", str(tmp_path), "--data.source", source)
    assert done.status == 1
    assert f"{source} is not a folder" in done.out


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--model.optimizer.lr", "1e9"], "learning rate"),
        (["--model.optimizer.lr", "0"], "do not lower the loss"),
        (["--data.transforms+", "unseeded.Unseeded", "--data.transforms.p", "1.0"], "otherwise than none"),
        (["--data.transforms+", "albumentations.HorizontalFlip", "--data.transforms.p", "0.0"], "change nothing"),
    ],
)
def test_what_ails_it(doctor: Callable[..., Visit], shards: Path, flags: list[str], complaint: str) -> None:
    done = doctor(DIGITS, "--data.root", str(shards), *flags)
    assert done.status == 1, done.out + done.err
    assert done.out.count("wrong ") == 1
    assert complaint in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda sampler, keys: [*keys, keys[0]], "is shown 2 times in an epoch"),
        (lambda sampler, keys: keys[: sampler.rows - 64], "only 1148 of 1212 rows are shown in an epoch"),
        (lambda sampler, keys: [sampler.rows + 5] * 2 * sampler.epoch + keys, "row 5 is shown 3 times in an epoch"),
        (lambda sampler, keys: keys * sampler.world_size, "is shown 2 times in an epoch"),
    ],
)
def test_rows_that_are_repeated_or_missing(
    doctor: Callable[..., Visit], shards: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable, complaint: str
) -> None:
    whole = ShuffledKeys.__iter__
    monkeypatch.setattr(ShuffledKeys, "__iter__", lambda keys: iter(broken(keys, [*whole(keys)])))
    done = doctor(DIGITS, "--data.root", str(shards))
    assert done.status == 1, done.out + done.err
    assert done.out.count("wrong ") == 1
    assert complaint in done.out


def test_a_checkpoint_that_brings_back_other_weights(
    doctor: Callable[..., Visit], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(files: WholeCheckpointIO, checkpoint: dict[str, Any], path: str) -> None:
        torch.save({"state_dict": {name: weights + 1 for name, weights in checkpoint["state_dict"].items()}}, path)

    monkeypatch.setattr(WholeCheckpointIO, "save_checkpoint", save)
    done = doctor(DIGITS, "--data.root", str(shards))
    assert done.status == 1, done.out + done.err
    assert done.out.count("wrong ") == 1
    assert "is another after a checkpoint was saved and loaded" in done.out


@pytest.mark.parametrize("compiled", [False, True])
def test_missing_pictures(
    doctor: Callable[..., Visit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setattr(crops, "compiled", compiled)
    flags = ["--data.root", str(tmp_path / "data"), "--data.source", str(tmp_path)]
    done = doctor("experiments/minivggnet_cifar10.yaml", *flags)
    assert done.status == 1
    assert "cifar-10-batches-py" in done.out
    assert done.out.count("wrong ") == 1  # without data, nothing else is looked at
    assert ("numba is not installed" in done.out) == (not compiled)


def test_a_file_that_is_not_there(doctor: Callable[..., Visit]) -> None:
    assert doctor("experiments/none.yaml").status == "error: experiments/none.yaml is no experiment's YAML file"
