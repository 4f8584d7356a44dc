"""Ensembles against the mean of their members, taken by hand; and what cannot be one."""

from pathlib import Path

import numpy as np
import pytest
import torch

import main
from callbacks.prediction_store import Predictions
from lightning_modules import EnsembleClassifier
from lightning_modules.base import log_mean_probabilities

PROJECT = Path(main.__file__).parent
EXPERIMENT = """
model: {{class_path: lightning_modules.EnsembleClassifier, init_args: {{checkpoints: [{}]}}}}
data: {{class_path: datamodules.Digits, init_args: {{batch_size: 64}}}}
"""
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of the digits, and one whose pictures are normalised otherwise, after six steps each."""
    folder = tmp_path_factory.mktemp("members")
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--data.root", str(shards), *QUIET]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "6"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, flags in (("a", []), ("b", ["--seed_everything", "1"]), ("c", ["--data.normalization", "unit"])):
            main.run_command(["fit", *config, *short, "--name", name, "--then", "test", *flags])
    return [folder / "runs/quickstart_digits" / name for name in "abc"]


def command(subcommand: str, members: list[Path], shards: Path, *flags: str) -> Path:
    Path("ensemble.yaml").write_text(EXPERIMENT.format(", ".join(map(str, members))))
    args = ["--config", "ensemble.yaml", "--name", "x", "--data.root", str(shards), *QUIET, *flags]
    main.run_command([subcommand, *args])
    return Path("runs/ensemble/x")


def test_probabilities_are_the_mean_of_the_members(
    runs: list[Path], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (Predictions.load(run) for run in runs[:2])
    assert np.abs(first.probabilities - second.probabilities).max() > 0.05
    found = Predictions.load(command("test", [runs[0], runs[1] / "checkpoints/best.ckpt"], shards))
    np.testing.assert_allclose(found.probabilities, (first.probabilities + second.probabilities) / 2, atol=1e-6)
    assert found.rows.tolist() == first.rows.tolist()
    table = command("predict", runs[:2], shards) / "report/predictions.csv"
    shown = [float(line.split(",")[3]) for line in table.read_text().splitlines()[1:]]
    np.testing.assert_allclose(shown, found.probabilities.max(axis=1), atol=1e-6)


def test_a_pattern_means_all_it_matches(
    runs: list[Path], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mean = Predictions.load(command("test", runs[:2], shards)).probabilities
    pattern = runs[0].with_name("[ab]") / "checkpoints/best.ckpt"
    np.testing.assert_array_equal(Predictions.load(command("test", [f"'{pattern}'"], shards)).probabilities, mean)


def test_a_runs_folder_means_its_best_checkpoint(runs: list[Path], tmp_path: Path) -> None:
    best = tmp_path / "checkpoints/best.ckpt"
    best.parent.mkdir()
    best.write_bytes((runs[0] / "checkpoints/best.ckpt").read_bytes())
    best.with_name("last.ckpt").write_bytes((runs[1] / "checkpoints/best.ckpt").read_bytes())
    (member,) = EnsembleClassifier(10, 32, [str(tmp_path)]).members
    expected = torch.load(best, weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in member.state_dict().items())


def test_probabilities_of_nearly_nothing_do_not_vanish() -> None:
    logits = torch.tensor([[0.0, -200.0]]), torch.tensor([[0.0, -210.0]])
    expected = np.log((np.exp(-200.0) + np.exp(-210.0)) / 2)
    assert log_mean_probabilities(logits)[0, 1].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("subcommand", "members", "flags", "words"),
    [
        ("test", "ac", [], "was trained on the packed set digits-.* with normalization unit; here are"),
        ("test", "ab", ["--data.split_seed", "7"], "was trained on the packed set digits-"),
        ("test", "ab", ["--data.image_size", "16"], "10 classes apart in pictures of 32 pixels, the ensemble 10 in"),
        ("test", "", [], "checkpoints is empty"),
        ("test", "az", [], "z is no file"),
        ("fit", "ab", [], "is tested, not trained"),
    ],
)
def test_refused(
    subcommand: str,
    members: str,
    flags: list[str],
    words: str,
    runs: list[Path],
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        command(subcommand, [runs[0].with_name(name) for name in members], shards, *flags)


def test_other_classes_and_damaged_files_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tells 10 classes apart in pictures of 32 pixels, the ensemble 7"):
        EnsembleClassifier(7, 32, [str(runs[0])])
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes((runs[0] / "checkpoints/best.ckpt").read_bytes()[:999])
    with pytest.raises(ValueError, match=r"damaged.ckpt is damaged"):
        EnsembleClassifier(10, 32, [str(damaged)])
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="does not say which network"):
        EnsembleClassifier(10, 32, [str(tmp_path / "foreign.ckpt")])
