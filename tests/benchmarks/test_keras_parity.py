"""Keras beside this project; what takes the place of Keras' environment is a script that prints what it would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import keras_parity

OURS = [
    {"epoch": 1, "train/loss": 1.8, "train/top1": 0.384, "val/loss": 1.5, "val/top1": 0.479},
    {"epoch": 2, "train/loss": 1.4, "train/top1": 0.5, "val/loss": 1.1, "val/top1": 0.6},
]
STANDS_IN = """
import json, sys
assert sys.argv[1] == "minigooglenet_cifar10"
assert sys.argv[3:] == ["--epochs", "2", "--max_epochs", "3", "--seed", "7"]
print("a library says something")
for epoch in (1, 2):
    print(json.dumps({"epoch": epoch, "keras": "2.15.0", "train/loss": 2 / epoch, "train/top1": 0.25 * epoch,
                      "val/loss": 1.0, "val/top1": 0.5}))
"""


@pytest.fixture
def run(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two epochs out of three, whose data are another packed set, and a Keras that is none."""
    folder = tmp_path / "runs" / "minigooglenet_cifar10" / "a"
    folder.mkdir(parents=True)
    data = {"class_path": "datamodules.Digits", "init_args": {"root": str(shards)}}
    config = {"seed_everything": 7, "model": {}, "data": data, "trainer": {"max_epochs": 3, "precision": "bf16-mixed"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "history.json").write_text(json.dumps(OURS))
    stands_in = tmp_path / "keras_training.py"
    stands_in.write_text(STANDS_IN)
    monkeypatch.setattr(keras_parity, "__file__", str(tmp_path / "keras_parity.py"))
    return folder


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object) -> str:
    monkeypatch.setattr(sys, "argv", ["keras_parity.py", *map(str, args)])
    keras_parity.main()
    return capsys.readouterr().out


def test_epochs_side_by_side(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(monkeypatch, capsys, run, sys.executable, "--epochs", 2)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0].count("|") == 10
    assert rows[2:] == [
        "| 1 | 2.00 | 1.80 | 25.00 | 38.40 | 1.00 | 1.50 | 50.00 | 47.90 |",
        "| 2 | 1.00 | 1.40 | 50.00 | 50.00 | 1.00 | 1.10 | 50.00 | 60.00 |",
    ]
    assert "Keras 2.15.0" in text
    assert text.startswith("# MiniGoogLeNet on CIFAR-10")
    assert "precision bf16-mixed, 3 epochs planned, seed 7" in text


@pytest.mark.parametrize("epochs", [0, 3])
def test_a_run_without_so_many_epochs(run: Path, epochs: int, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit, match=f"is no run of minivggnet_cifar10 or minigooglenet_cifar10 with {epochs} "):
        printed(monkeypatch, capsys, run, sys.executable, "--epochs", epochs)


def test_a_run_of_another_experiment(run: Path, monkeypatch, capsys) -> None:
    other = run.parent.parent / "resnet_cifar10" / "a"
    other.parent.mkdir()
    run.rename(other)
    with pytest.raises(SystemExit, match="is no run of"):
        printed(monkeypatch, capsys, other, sys.executable, "--epochs", 2)


def test_keras_fails(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "keras_training.py").write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit) as ended:
        printed(monkeypatch, capsys, run, sys.executable, "--epochs", 2)
    assert ended.value.code == 3


def test_the_script_for_keras_needs_nothing_of_this_project() -> None:
    script = Path(__file__).parents[2] / "benchmarks/keras_training.py"
    imported = {
        line.split()[1].split(".")[0] for line in script.read_text().splitlines() if line.startswith(("import", "from"))
    }
    assert imported <= {"argparse", "importlib", "json", "pathlib", "h5py", "numpy", "tensorflow"}
    subprocess.run([sys.executable, "-m", "py_compile", str(script)], check=True)
