"""The page on a user's own pictures: its experiment, its network and its lines of Python do what it says."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
from lightning_modules.saved import saved_network

PAGE = (Path(main.__file__).parent / "docs/your_own_pictures.md").read_text(encoding="utf-8")
(EXPERIMENT,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
NETWORK, NOTEBOOK = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
EARLY = re.search(r"(--trainer.callbacks\+=pytorch_lightning.*?)\n\n", PAGE, re.DOTALL)[1].replace("\\\n", "").split()


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trains the page's experiment, made small, for an epoch on thirty dark cats and ten light dogs, and tests."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count, darkest in (("cat", 30, 0), ("dog", 10, 128)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(darkest, darkest + 128, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"pets/{name}/{number}.jpg")
    (tmp_path / "pets.yaml").write_text(EXPERIMENT)

    def run(*flags: str) -> None:
        small = ["--data.image_size", "32", "--data.batch_size", "8", "--trainer.max_epochs", "1"]
        quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
        start = ["fit", "--config", "pets.yaml", "--data.source", "pets", "--name", "a", "--then", "test"]
        main.run_command([*start, *small, *quiet, *flags])

    return run


def test_the_experiment_and_the_notebook(fit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "litvision")
    fit("--model.weights", "", "--trainer.callbacks+=callbacks.ClassWeights", "--trainer.callbacks.power", "0.5")
    assert "the loss weighs classes by " in caplog.text
    found: dict = {}
    exec(NOTEBOOK, found)
    assert len(found["tested"].rows) == 10
    assert 0 <= found["best"] <= 1
    assert found["accuracy"] == found["tested"].right().mean()
    assert found["said"].shape == (30, 2)
    np.testing.assert_allclose(found["said"].sum(axis=1), 1, atol=1e-5)
    main.run_command(["predict", "--run", "runs/pets/a"])
    with open("runs/pets/a/report/predictions.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["file"].partition("/")[0] for line in lines] == [line["label"] for line in lines]
    assert len({line["file"] for line in lines}) == 10


def test_the_network(fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pets.yaml").write_text(re.sub(r"model:\n.*?\ndata:", "data:", EXPERIMENT, flags=re.DOTALL))
    optimizer = ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"]
    fit("--model", "my_network.MyNetwork", "--model.width", "4", *optimizer, *EARLY)
    assert "my_network" in sys.modules
    assert Path("runs/pets/a/report/metrics.json").exists()


BARE = """from torch import nn
from lightning_modules import Classifier

class Bare(Classifier):
    def __init__(self, num_classes, image_size):
        super().__init__(num_classes, image_size)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))
"""


def test_a_network_without_arguments_is_rebuilt(fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bare.py").write_text(BARE)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pets.yaml").write_text(re.sub(r"model:\n.*?\ndata:", "data:", EXPERIMENT, flags=re.DOTALL))
    fit("--model", "bare.Bare")
    network, _ = saved_network("runs/pets/a")
    assert network.net[1].weight.shape == (2, 3 * 32 * 32)
