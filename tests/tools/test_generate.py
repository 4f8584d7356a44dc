"""A DCGAN from its training to pictures and their score."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import main
from callbacks.montage import Montage, montage
from lightning_modules import DCGAN
from lightning_modules.saved import saved_network
from tools import generate

PROJECT = Path(main.__file__).parent
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two DCGANs, the second conditional, and a classifier of the digits."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        short = [*QUIET, "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "5"]
        for experiment in ("dcgan_digits", "dcgan_digits_conditional", "quickstart_digits"):
            config = ["--config", str(PROJECT / f"experiments/{experiment}.yaml"), "--data.root", str(shards)]
            main.run_command(["fit", *config, *short, "--name", "a", "--data.image_size", "32"])
    return folder / "runs"


def test_a_run_shows_what_it_learns(runs: Path) -> None:
    run = runs / "dcgan_digits/a"
    record = json.loads((run / "history.json").read_text())[-1]
    assert record["step"] == 2 * 2 * 5  # two epochs of five batches, two optimizers
    assert record["lr"] == pytest.approx(2e-4 / (1 + 4e-6 * 9))  # after nine steps of each
    losses = record["train/generator_loss"], record["train/discriminator_loss"]
    assert record["train/loss"] == pytest.approx(sum(losses), rel=1e-5)
    assert 0 <= record["train/discriminator"] <= 1
    montages = sorted(path.name for path in (run / "montages").iterdir())
    assert montages == ["epoch-001-batch-00005.png", "epoch-002-batch-00005.png"]
    last = np.asarray(Image.open(run / "montages" / montages[-1]))
    network, _ = saved_network(run, DCGAN)
    np.testing.assert_array_equal(last, montage(network.samples(256, seed=42).numpy(), 16))


def test_an_interrupted_run_goes_on_to_the_bit(runs: Path, shards: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ["--config", str(PROJECT / "experiments/dcgan_digits.yaml"), "--data.root", str(shards), *QUIET]
    short = ["--trainer.limit_train_batches", "5", "--data.image_size", "32", "--name", "a"]
    main.run_command(["fit", *config, *short, "--trainer.max_epochs", "1"])
    main.run_command(["fit", "--run", "runs/dcgan_digits/a", "--trainer.max_epochs", "2"])
    first, second = (saved_network(run / "dcgan_digits/a", DCGAN)[0].state_dict() for run in (runs, Path("runs")))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("epoch", "batches"),
    [(1, [*range(25, 226, 25), 230]), (10, [*range(25, 226, 25), 230]), (11, [100, 200, 230])],
)
def test_the_first_ten_epochs_are_looked_at_often(
    monkeypatch: pytest.MonkeyPatch, epoch: int, batches: list[int]
) -> None:
    names: list[str] = []
    monkeypatch.setattr(Montage, "_write", lambda _self, _trainer, _network, name: names.append(name))
    trainer = SimpleNamespace(current_epoch=epoch - 1, num_training_batches=230, is_global_zero=True)
    callback = Montage()
    for batch_idx in range(230):
        callback.on_train_batch_end(trainer, None, None, None, batch_idx)
    assert names == [f"epoch-{epoch:03d}-batch-{batch:05d}" for batch in batches]


def test_montage_lays_pictures_in_rows() -> None:
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None] + np.zeros((5, 2, 3, 3), np.uint8)
    sheet = montage(pictures, 3)
    assert sheet.shape == (4, 9, 3)
    assert sheet[::2, ::3, 0].tolist() == [[0, 1, 2], [3, 4, 0]]


def test_pictures_of_the_classes_that_are_asked_for(runs: Path, tmp_path: Path, call: Callable) -> None:
    run, out, folder = runs / "dcgan_digits_conditional/a", tmp_path / "all.png", tmp_path / "each"
    assert call(generate, run, "--count", 6, "--classes", 3, 7, "--seed", 5, "--out", out, "--folder", folder) == (
        0,
        "",
        "",
    )
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{number:05d}-{'37'[number % 2]}.png" for number in range(6)]
    network, _ = saved_network(run, DCGAN)
    expected = network.generate(network.noise(6, seed=5), torch.tensor([3, 7] * 3)).numpy()
    for name, picture in zip(names, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / name)), picture)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), montage(expected, 3))


def test_a_walk_is_of_one_class(runs: Path, tmp_path: Path, call: Callable) -> None:
    flags = ["--count", 2, "--walk", 3, "--classes", 3, 7, "--folder", tmp_path / "each", "--out", tmp_path / "all.png"]
    assert call(generate, runs / "dcgan_digits_conditional/a", *flags).status == 0
    names = [path.stem.partition("-")[2] for path in sorted((tmp_path / "each").iterdir())]
    assert names == ["3", "3", "3", "7", "7", "7"]
    assert Image.open(tmp_path / "all.png").size == (3 * 32, 2 * 32)  # a line each


def test_classifiers_know_the_classes_of_the_network(runs: Path, call: Callable, monkeypatch) -> None:
    known = [str(digit) for digit in range(10)]

    def said(network: str, *classes: list[str]) -> str:
        loaded = iter(classes)
        network_alone = SimpleNamespace(load=lambda place: SimpleNamespace(classes=next(loaded)))
        monkeypatch.setattr(generate, "Predictor", network_alone)
        return call(generate, runs / network / "a", "--count", 1, "--score", *"ab"[: len(classes)]).err

    assert "are not those of the network: 0, 1," in said("dcgan_digits_conditional", known[::-1])
    assert "have other classes than each other" in said("dcgan_digits", known, known[::-1])


def test_pictures_do_not_mix_with_earlier_ones(runs: Path, tmp_path: Path, call: Callable) -> None:
    run, folder = runs / "dcgan_digits/a", tmp_path / "each"
    assert call(generate, run, "--count", 3, "--folder", folder).status == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused = call(generate, run, "--count", 2, "--seed", 1, "--folder", folder)
    assert (refused.status, f"{folder} is not an empty folder" in refused.err) == (1, True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_montage_needs_a_folder(tmp_path: Path, call: Callable) -> None:
    """Told before anything is read."""
    refused = call(generate, tmp_path / "no run", "--out", tmp_path / "nowhere/digits.png")
    assert (refused.status, "nowhere is not there; make it, or write digits.png elsewhere" in refused.err) == (1, True)


def test_a_walk_goes_from_each_noise_to_the_next() -> None:
    noise = torch.tensor([[0.0, 1.0], [1.0, -1.0]])
    expected = [[0, 1], [0.5, 0], [1, -1], [0.5, 0]]
    torch.testing.assert_close(generate.walked(noise, 2), torch.tensor(expected))
    assert torch.equal(generate.walked(noise, 1), noise)


class Grey:
    """A classifier of three classes by how bright the pictures are."""

    classes = ("dark", "grey", "bright")
    stored_size = 4

    def __init__(self, steps: int = 3) -> None:
        self.steps = steps

    def probabilities(self, pictures: list[np.ndarray]) -> np.ndarray:
        found = np.full((len(pictures), 3), 0.04, np.float32)
        for row, picture in zip(found, pictures, strict=True):
            assert picture.shape == (4, 4, 3)
            row[min(int(picture.mean() // (256 / self.steps)), 2)] = 0.92
        return found


def test_the_score_counts() -> None:
    pictures = np.zeros((300, 8, 8, 3), np.uint8)
    pictures[150:298] = 128
    pictures[298:] = 255  # two in three hundred: not there
    labels = np.repeat([0, 1], 150)
    found = generate.score([Grey()], pictures, labels)
    assert found["classes_present"] == 2
    assert found["shares"] == {"dark": 0.5, "grey": 0.4933, "bright": 0.0067}
    assert found["accuracy"] == pytest.approx(298 / 300, abs=1e-4)
    assert (found["sure"], found["mean_probability"]) == (1, 0.92)
    entropy = -sum(share * np.log(share) for share in (0.5, 148 / 300, 2 / 300)) / np.log(3)
    assert found["balance"] == pytest.approx(entropy, abs=1e-4)
    assert "agreement" not in found
    pictures[297] = 255  # three are a hundredth
    assert generate.score([Grey()], pictures, None)["classes_present"] == 3
    pictures[297] = 128
    found = generate.score([Grey(), Grey(2)], pictures, None)  # the second finds two kinds only
    assert found["agreement"] == pytest.approx(298 / 300, abs=1e-4)
    assert "accuracy" not in found


def test_distances_by_hand() -> None:
    def grey(*levels: int) -> np.ndarray:
        return np.array(levels, np.uint8)[:, None, None, None] + np.zeros((len(levels), 2, 2, 3), np.uint8)

    found = generate.comparison(grey(10, 50), train=grey(12, 14, 90), test=grey(100, 20))
    assert found == {"to_training": (2 + 36) / 2, "test_to_training": (10 + 6) / 2, "from_training": 15.33}


def test_score_of_a_run(runs: Path, call: Callable) -> None:
    classifier = runs / "quickstart_digits/a"
    network = runs / "dcgan_digits_conditional/a"
    written = call(generate, network, "--count", 50, "--score", classifier, classifier, "--compare").out
    found = json.loads(written)
    assert found["pictures"] == 50
    assert found["agreement"] == 1  # with itself
    assert 0 <= found["accuracy"] <= 1
    assert 0 < found["test_to_training"] < found["to_training"]  # after ten steps


@pytest.mark.parametrize(
    ("network", "flags", "said"),
    [
        ("quickstart_digits/a", ["--out", "a.png"], "holds a MiniVGGNet, which is no DCGAN; name a run that"),
        ("dcgan_digits/a", ["--out", "a.png", "--classes", "3"], "does not know classes"),
        ("dcgan_digits_conditional/a", ["--out", "a.png", "--classes", "nine"], "there is no class 'nine'; near are 0"),
        ("dcgan_digits/a", ["--score", "RUNS/dcgan_digits/a"], "holds a DCGAN, which is no Classifier"),
        ("dcgan_digits/a", ["--out", "a.png", "--compare"], "--compare adds to the figures of --score"),
        ("dcgan_digits/a", [], "say what to do"),
        ("nowhere", ["--out", "a.png"], "is no file"),
    ],
)
def test_refused_in_plain_words(runs: Path, network: str, flags: list[str], said: str, call: Callable) -> None:
    assert said in call(generate, runs / network, *[flag.replace("RUNS", str(runs)) for flag in flags]).err
