"""Is a historical recipe here the published one? The first epochs on CIFAR-10 in Keras 2 and here.

    python3.11 -m venv keras && keras/bin/pip install tensorflow-cpu==2.15.1 h5py scipy
    python benchmarks/keras_parity.py runs/minivggnet_cifar10/RUN keras/bin/python > benchmarks/KERAS_PARITY.md
    python benchmarks/keras_parity.py runs/minigooglenet_cifar10/RUN keras/bin/python >> benchmarks/KERAS_PARITY.md

RUN is a run of that experiment. Keras trains on the rows of the same packed set, by the same schedule to the same end,
from the same seed, which draws other numbers there: figures agree but for chance, which is greatest in validation,
where the moving statistics of Keras' normalisation lag behind in the first epochs.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.provenance import abbreviated, commit
from pictures import data_of
from run_record import RunRecord
from terminal import as_typed, command_line, plainly

NETWORKS = {"minivggnet_cifar10": "MiniVGGNet", "minigooglenet_cifar10": "MiniGoogLeNet"}
EPOCHS = 5
COLUMNS = {"train/loss": 1, "train/top1": 100, "val/loss": 1, "val/top1": 100}  # and what a figure is shown times

Epoch = dict[str, Any]


def trained_in_keras(python: str, run: RunRecord, folder: Path, epochs: int) -> list[Epoch]:
    """What ``keras_training.py`` prints of each epoch, in the environment of another Python."""
    script = Path(__file__).parent / "keras_training.py"
    planned, seed = run.config["trainer"]["max_epochs"], run.config["seed_everything"]
    command = [python, str(script), run.experiment, str(folder)]
    command += ["--epochs", str(epochs), "--max_epochs", str(planned), "--seed", str(seed)]
    told = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", file=sys.stderr)
            told.append(line)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return [json.loads(line) for line in told if line.startswith("{")]


def table(theirs: Sequence[Epoch], ours: Sequence[Epoch]) -> list[str]:
    """A row for each epoch: Keras and this project side by side."""
    heads = [f"{name}{' %' * (scale == 100)}, {side}" for name, scale in COLUMNS.items() for side in ("Keras", "here")]
    lines = [f"| epoch | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    for number, pair in enumerate(zip(theirs, ours, strict=True), start=1):
        cells = [f"{scale * epoch[name]:.2f}" for name, scale in COLUMNS.items() for epoch in pair]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Train in Keras, and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("python", metavar="PYTHON", help="of the environment that has Keras")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    with plainly():
        run = RunRecord.load(arguments.run)
        if run.experiment not in NETWORKS or not 1 <= arguments.epochs <= len(run.history):
            raise ValueError(f"{arguments.run} is no run of {' or '.join(NETWORKS)} with {arguments.epochs} epochs")
        theirs = trained_in_keras(arguments.python, run, data_of(arguments.run).folder, arguments.epochs)
        print(f"# {NETWORKS[run.experiment]} on CIFAR-10 in Keras and here\n")
        print(f"`{as_typed(__file__)}`, commit {abbreviated(commit(Path(__file__).parent))}.")
        print(
            f"Keras {theirs[0]['keras']} in float32 and `experiments/{run.experiment}.yaml` with precision "
            f"{run.config['trainer']['precision']}, {run.config['trainer']['max_epochs']} epochs planned, seed "
            f"{run.config['seed_everything']} in both; one run each.\n"
        )
        print("\n".join(table(theirs, run.history[: arguments.epochs])))


if __name__ == "__main__":
    main()
