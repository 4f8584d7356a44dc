"""What a second process brings, and what each callback that every run has costs in a step.

    python benchmarks/scaling.py >> benchmarks/RESULTS.md

Sides take turns, and a first round only warms up. Each process has one thread, so that two of them have twice the
machine of one. A callback's time is that spent in its hooks, without that of hooks they call: as long as nothing
waits for a device, that is all it costs. What it does once an epoch is spread over the steps of an epoch of CIFAR-10.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.step import CASES, WARM_UP, Case, RandomPictures, Stopwatch, sgd, spread
from callbacks import WholeCheckpointIO, with_those_of_every_run
from callbacks.provenance import abbreviated, commit, hardware
from terminal import as_typed, command_line

ROUNDS = 5
EPOCH = 45_000 // 64  # steps of CIFAR-10, with a tenth kept for validation
MINI_VGG_NET = replace(next(case for case in CASES if case.name == "MiniVGGNet"), steps=48 - WARM_UP)
STEP_HOOKS = ("on_train_batch_start", "on_train_batch_end")
HOOKS = [name for name in dir(Callback) if name.startswith("on_")]


class Report(Stopwatch):
    """Leaves the seconds of a step in a file, from where the process that forked the trainer reads them."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them."""
        if trainer.is_global_zero:
            seconds = (self.stepped - self.began) / (trainer.num_training_batches - WARM_UP)
            Path(trainer.default_root_dir, "seconds.json").write_text(json.dumps(seconds))


class Costs:
    """Seconds in the hooks of callbacks, by name of the callback: those of a step, and those of an epoch."""

    def __init__(self) -> None:
        self.of_steps: dict[str, float] = defaultdict(float)
        self.of_epochs: dict[str, float] = defaultdict(float)
        self._nested = [0.0]

    def watch(self, callback: Callback) -> None:
        """Take the time of a callback's hooks from now on."""
        for hook in HOOKS:
            if getattr(type(callback), hook) is not getattr(Callback, hook):
                times = self.of_steps if hook in STEP_HOOKS else self.of_epochs
                setattr(callback, hook, self._timed(getattr(callback, hook), times, type(callback).__name__))

    def _timed(self, hook: Callable, times: dict[str, float], name: str) -> Callable:
        @wraps(hook)
        def timed(*arguments: Any, **named: Any) -> Any:
            with self._watched(times, name):
                return hook(*arguments, **named)

        return timed

    @contextmanager
    def _watched(self, times: dict[str, float], name: str) -> Iterator[None]:
        self._nested.append(0.0)
        began = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - began
            times[name] += taken - self._nested.pop()
            self._nested[-1] += taken


def fit(case: Case, data: RandomPictures, processes: int = 1, costs: Costs | None = None) -> float:
    """Seconds of a step, after an epoch in so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            devices=processes,
            strategy="ddp_fork" if processes > 1 else "auto",
            default_root_dir=folder,
            logger=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            plugins=[WholeCheckpointIO()],
            callbacks=with_those_of_every_run([Report()], "", ""),
        )
        for callback in trainer.callbacks:
            if costs and not isinstance(callback, Report):
                costs.watch(callback)
        trainer.fit(case.network(case.size, sgd), datamodule=data)
        return json.loads(Path(folder, "seconds.json").read_text())


def processes_table(case: Case, root: str) -> list[str]:
    """A row for one process, for two that share its batch, and for two of which each has such a batch."""
    sides = [(1, case), (2, case), (2, replace(case, name=f"{case.name} twice", batch=2 * case.batch))]
    speeds: list[list[float]] = [[] for _ in sides]
    for number in range(ROUNDS + 1):
        for (processes, side), found in zip(sides, speeds, strict=True):
            seconds = fit(side, RandomPictures(root, side), processes)
            if number:
                found.append(side.batch / seconds)
    lines = ["| processes | global batch | images/s | of one process |", "| --- | --- | --- | --- |"]
    for (processes, side), found in zip(sides, speeds, strict=True):
        ratios = [speed / one for speed, one in zip(found, speeds[0], strict=True)]
        lines.append(f"| {processes} | {side.batch} | {spread(found, 0)} | {spread(ratios, 2)} |")
    return lines


def callbacks_table(case: Case, root: str) -> list[str]:
    """A row for each callback of every run, and one for all: a share is that of the step of the same round."""
    steps = case.steps + WARM_UP
    rounds: list[tuple[float, Costs]] = []
    for number in range(ROUNDS + 1):
        costs = Costs()
        seconds = fit(case, RandomPictures(root, case), costs=costs)
        if number:
            rounds.append((seconds, costs))
    names = sorted({name for _, costs in rounds for name in (costs.of_steps | costs.of_epochs)})
    rows = {name: [_cost(costs, [name], steps) for _, costs in rounds] for name in names}
    rows = dict(sorted(rows.items(), key=lambda row: row[1], reverse=True))
    rows["all"] = [_cost(costs, names, steps) for _, costs in rounds]
    lines = ["| callback | microseconds a step | ms an epoch | of a step, % |", "| --- | --- | --- | --- |"]
    for name, found in rows.items():
        shares = [
            100 * (step + epoch / EPOCH) / seconds for (step, epoch), (seconds, _) in zip(found, rounds, strict=True)
        ]
        step, epoch = spread([1e6 * step for step, _ in found], 0), spread([1e3 * epoch for _, epoch in found], 1)
        lines.append(f"| {name} | {step} | {epoch} | {spread(shares, 2)} |")
    lines += ["", f"A step takes {spread([1e3 * seconds for seconds, _ in rounds], 0)} ms."]
    return lines


def _cost(costs: Costs, names: list[str], steps: int) -> tuple[float, float]:
    """Seconds in a step, and in an epoch beside."""
    return sum(costs.of_steps[name] for name in names) / steps, sum(costs.of_epochs[name] for name in names)


def main() -> None:
    """Print the tables."""
    command_line(__doc__).parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # forked processes cannot use CUDA once this one has
    os.environ["OMP_NUM_THREADS"] = "1"  # or Lightning would give each process its share of the cores
    torch.set_num_threads(1)
    seed_everything(42, verbose=False)
    with tempfile.TemporaryDirectory() as root, redirect_stdout(sys.stderr):
        processes = processes_table(MINI_VGG_NET, root)
        callbacks = callbacks_table(MINI_VGG_NET, root)
    print("\n## Processes, and the callbacks of every run\n")
    print(f"`{as_typed(__file__)}`, commit {abbreviated(commit(Path(__file__).parent))}.")
    print(f"{hardware(torch.device('cpu'))} a process, {os.cpu_count()} cores, torch {torch.__version__}, gloo.")
    print(f"Python {platform.python_version()}. Median (range) of {ROUNDS} windows a side, taken in turns: `fit` of ")
    print(f"MiniVGGNet, 32x32, {MINI_VGG_NET.steps} steps a window. Each process has one thread.\n")
    print("\n".join([*processes, "", f"Callbacks, batches of {MINI_VGG_NET.batch}:", "", *callbacks]))


if __name__ == "__main__":
    main()
