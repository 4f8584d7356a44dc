"""torchvision's weights: where they come from, and files in its folder that are not what was published."""

import hashlib
import os
import re
from pathlib import Path

import pytest
import torch
from torchvision import models

from lightning_modules import TorchvisionModel

NETWORK = models.SqueezeNet1_1_Weights


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder in which torchvision keeps what it downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    return tmp_path / "hub/checkpoints"


def publish(content: object, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the weights' address a file with its checksum in its name; where it will lie."""
    folder.mkdir()
    torch.save(content, folder / "weights.pth")
    digest = hashlib.sha256((folder / "weights.pth").read_bytes()).hexdigest()
    published = (folder / "weights.pth").rename(folder / f"squeezenet1_1-{digest[:8]}.pth")
    monkeypatch.setattr(NETWORK.DEFAULT.value, "url", published.as_uri())
    return home / published.name


def load() -> TorchvisionModel:
    model = TorchvisionModel(1000, 32, "squeezenet1_1", "DEFAULT")
    model.load_pretrained()
    return model


def test_every_published_file_is_asked_for_by_https_and_names_its_check_sum() -> None:
    for architecture in models.list_models(module=models):
        for weights in models.get_model_weights(architecture):
            assert weights.url.startswith("https://")
            assert re.search(r"-[0-9a-f]{8,}\.pth$", weights.url), weights.url


def test_they_are_downloaded_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = models.squeezenet1_1().state_dict()
    file = publish(state, tmp_path / "there", home, monkeypatch)
    for _ in range(2):
        found = load().net.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
        (tmp_path / "there" / file.name).unlink(missing_ok=True)
    assert file.exists()


def test_a_changed_file_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(models.squeezenet1_1().state_dict(), tmp_path / "there", home, monkeypatch)
    torch.save(models.squeezenet1_1().state_dict(), file)  # the same names, other weights
    with pytest.raises(ValueError, match=rf"{file.name} is not what torchvision published"):
        load()


def test_no_code_runs_even_if_the_check_sum_is_right(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish({"weight": Evil(tmp_path / "owned")}, tmp_path / "there", home, monkeypatch)
    with pytest.raises(ValueError, match=r"could run code: it asks for posix\.mkdir"):
        load()
    assert not (tmp_path / "owned").exists()


def test_without_a_network(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NETWORK.DEFAULT.value, "url", (tmp_path / "nowhere/weights-01234567.pth").as_uri())
    with pytest.raises(ConnectionError, match=r"weights-01234567\.pth cannot .*path of a file of weights"):
        load()
    assert not list(home.iterdir())
