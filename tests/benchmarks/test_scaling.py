"""The benchmark of processes and callbacks: all sides train, and costs go to the callback that causes them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

from benchmarks import scaling

SMALL = replace(scaling.MINI_VGG_NET, size=16, batch=8, steps=3)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the benchmark: forked processes cannot use CUDA once this one has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_for_each_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "ROUNDS", 1)
    _, _, *rows = scaling.processes_table(SMALL, str(tmp_path))
    assert [cells(row)[:2] for row in rows] == [["1", "8"], ["2", "8"], ["2", "16"]]
    assert cells(rows[0])[3].startswith("1.00")
    assert all(float(cells(row)[2].split()[0]) > 0 for row in rows)


def test_a_row_for_each_callback_and_their_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "ROUNDS", 1)
    _, _, *rows, total, _, step = scaling.callbacks_table(SMALL, str(tmp_path))
    table = {name: [float(cell.split()[0]) for cell in costs] for name, *costs in map(cells, rows)}
    assert {"StepSeed", "FiniteLoss", "MeanLoss", "TopKAccuracy", "TrainingMonitor", "BestCheckpoint"} <= set(table)
    name, *sums = cells(total)
    assert name == "all"
    for column, tolerance in enumerate((len(table), 0.1 * len(table), 0.01 * len(table))):
        assert float(sums[column].split()[0]) == pytest.approx(
            sum(costs[column] for costs in table.values()), abs=tolerance
        )
    milliseconds = float(step.split()[3])
    share = 100 * (1e-3 * table["StepSeed"][0] + table["StepSeed"][1] / scaling.EPOCH) / milliseconds
    rounding = 0.5 / milliseconds  # of so short a step, in whole milliseconds
    assert table["StepSeed"][2] == pytest.approx(share, rel=0.1 + rounding, abs=0.02)


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Slow(Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *arguments: object) -> None:
        self.clock.now += 2


class Caller(Callback):
    """Calls another's hook in its own, as a checkpoint does."""

    def __init__(self, clock: Clock, other: Callback) -> None:
        self.clock, self.other = clock, other

    def on_train_epoch_end(self, *arguments: object) -> None:
        self.clock.now += 1
        self.other.on_train_batch_end()


def test_time_belongs_to_the_callback_that_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(scaling, "time", clock)
    costs, slow = scaling.Costs(), Slow(clock)
    caller = Caller(clock, slow)
    costs.watch(slow)
    costs.watch(caller)
    slow.on_train_batch_end()
    caller.on_train_epoch_end()
    assert costs.of_steps == {"Slow": 4}
    assert costs.of_epochs == {"Caller": 1}
