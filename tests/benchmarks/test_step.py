"""The benchmark of a step: both sides train, and their rows come out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import step

SMALL = {"size": 16, "batch": 4, "steps": 3}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_for_each_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "ROUNDS", 2)
    cases = [replace(case, **SMALL) for case in step.CASES if case.name in ("no work", "MiniVGGNet")]
    heads, _, *rows, _, end = step.networks_table(cases, str(tmp_path))
    assert [cells(row)[:3] for row in rows] == [["no work", "16x16", "4"], ["MiniVGGNet", "16x16", "4"]]
    for row in rows:
        assert len(cells(row)) == len(cells(heads))
        bare, fit, ratio = (float(cell.split()[0]) for cell in cells(row)[3:6])
        assert bare > 0
        assert fit > 0
        assert ratio > 0
    assert end.startswith("The end of an epoch takes ")


def test_a_row_for_each_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "ROUNDS", 1)
    case = replace(next(case for case in step.CASES if case.name == "no work"), **SMALL)
    chosen = [each for each in step.SWITCHES if "compile" not in each.name and not each.resident]
    _, _, *rows = step.switches_table(case, chosen, str(tmp_path))
    assert [cells(row)[0] for row in rows] == [each.name for each in chosen]
    assert cells(rows[0])[2].startswith("1.00")


def test_a_window_has_all_its_steps_whatever_was_packed_before(tmp_path: Path) -> None:
    for steps in (3, 5, 2):
        case = replace(step.CASES[0], size=16, batch=4, steps=steps)
        data = step.RandomPictures(str(tmp_path), case)
        _, end = step.fit(case, data, step.PLAIN)
        assert data.trainer.num_training_batches == step.WARM_UP + steps
        assert end > 0


@pytest.mark.parametrize(
    ("name", "on_cpu"), [*((name, step.DEVICE.type == "cpu") for name in step.IN_BARE_LOOP), ("none", False)]
)
def test_the_bare_loop_takes_the_same_steps_as_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, on_cpu: bool
) -> None:
    switches = next(each for each in step.SWITCHES if each.name == name)
    monkeypatch.setattr(step.RandomPictures, "_on_cpu", on_cpu)  # who augments: loaders, or what follows them
    monkeypatch.setattr(step.RandomPictures, "_pinned", False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "42")
    monkeypatch.setattr(step.RandomPictures, "_position", lambda data, batches: (0, 0))  # else the loop has epoch 2
    original = replace(next(case for case in step.CASES if case.name == "MiniVGGNet"), **SMALL)
    data, networks = step.RandomPictures(str(tmp_path), original), []

    def remembered(size: int, optimizer: step.Optimizer) -> step.Classifier:
        torch.manual_seed(0)
        networks.append(original.network(size, optimizer))
        for module in networks[-1].modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return networks[-1]

    case = replace(original, network=remembered)
    step.fit(case, data, switches)
    step.bare(case, switches, step.batches_on_device(data))
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)
