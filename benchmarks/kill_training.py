"""Training killed at random moments: continued, it ends with the weights of an undisturbed run, to the bit.

    python benchmarks/kill_training.py --kills 50 --config experiments/minivggnet_cifar10.yaml [flags of main.py]

Folders in flags must be absolute: trainings run in a temporary one.

A process trains with `--resume auto` and is killed (SIGKILL) at a random moment between its start and the time that an
undisturbed run takes; the same command is given again until a process lives to the end. Then weights, optimizer and
history are compared with those of the undisturbed run. Checkpoints are written every few tenths of a second.
"""

import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import main as program
from callbacks import newest_whole
from callbacks.provenance import hardware
from callbacks.run_folder import LAST
from terminal import command_line

PROJECT = Path(__file__).parent.parent
OFTEN = ["--trainer.callbacks+", "callbacks.LastCheckpoint", "--trainer.callbacks.every_minutes", "0.005"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


@dataclass
class Killed:
    """A run: the seconds after which its processes were killed, and the steps from which later ones went on."""

    folder: Path
    moments: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)


def train(folder: Path, name: str, flags: Sequence[str], seconds: float | None = None) -> float | None:
    """Train in a child process, killed after so many seconds; how long it took, or None if it was killed.

    The child is forked from this process, which has imported everything and computed nothing, so it begins at once.

    Raises:
        RuntimeError: training failed by itself.
    """
    child = multiprocessing.get_context("fork").Process(target=_train, args=(folder, name, flags))
    started = time.monotonic()
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
        child.join()
        return None
    if child.exitcode:
        raise RuntimeError(f"training failed; {folder / 'output.txt'} says why")
    return time.monotonic() - started


def _train(folder: Path, name: str, flags: Sequence[str]) -> None:
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["main.py", "fit", *flags, *OFTEN, *QUIET, "--resume", "auto", "--name", name]
    program.main()


def kill_and_continue(folder: Path, experiment: str, name: str, flags: Sequence[str], seconds: float) -> Killed:
    """Kill a run's processes at random moments within ``seconds`` of their start, until one lives to its end."""
    run = Killed(folder / "runs" / experiment / name)
    while train(folder, name, flags, moment := random.uniform(0, 1.2 * seconds)) is None:
        run.moments.append(moment)
        newest = newest_whole(run.folder, none_is_fine=True)
        run.steps.append(torch.load(newest, weights_only=True)["global_step"] if newest else 0)
    return run


def difference(run: Path, whole: Path) -> str | None:
    """What of the end of a run is not that of the undisturbed one."""
    states = [torch.load(folder / LAST, weights_only=True) for folder in (run, whole)]
    for part in ("state_dict", "optimizer_states", "global_step"):
        if not _equal(*(state[part] for state in states)):
            return part
    histories = [json.loads((folder / "history.json").read_text()) for folder in (run, whole)]
    return None if histories[0] == histories[1] else "history"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_equal(*pair) for pair in zip(one, other, strict=True))
    return one == other


def main() -> None:
    """Kill, continue and compare."""
    parser = command_line(__doc__)
    parser.add_argument("--kills", type=int, default=50, help="at least so many in all")
    parser.add_argument("--config", type=Path, default=PROJECT / "experiments/quickstart_digits.yaml")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    arguments, flags = parser.parse_known_args()
    random.seed(arguments.seed)
    flags = ["--config", str(arguments.config.resolve()), *flags]
    experiment = arguments.config.stem
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder, "first", flags)  # packs the data set
        seconds = train(folder, "whole", flags)
        assert seconds is not None
        whole = folder / "runs" / experiment / "whole"
        steps = torch.load(whole / LAST, weights_only=True)["global_step"]
        print(f"{experiment} {' '.join(flags[2:])}: {steps} steps, {seconds:.1f} s undisturbed", flush=True)
        kills = runs = different = 0
        while kills < arguments.kills:
            runs += 1
            run = kill_and_continue(folder, experiment, f"killed-{runs}", flags, seconds)
            differs = difference(run.folder, whole)
            kills, different = kills + len(run.moments), different + bool(differs)
            moments = ", ".join(
                f"{moment:.2f} s (step {step})" for moment, step in zip(run.moments, run.steps, strict=True)
            )
            print(f"run {runs}: killed after {moments or 'nothing'}: {differs or 'identical'}", flush=True)
    print(f"{kills} kills in {runs} runs: {runs - different} end identical, {different} different")
    print(f"{hardware(torch.device('cpu'))}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
