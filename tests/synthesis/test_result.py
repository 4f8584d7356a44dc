"""What the folder of a result holds, and what is kept in memory on the way to it."""

import json
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synthesis import result
from synthesis.dream import DreamSettings
from synthesis.result import write_result
from synthesis.step import Step
from synthesis.style import StyleSettings

SETTINGS = DreamSettings("", {"0": 1.0})


def steps(count: int) -> Iterator[Step]:
    """Pictures of one colour, 7x5 pixels, which is the number of the iteration, as is the loss."""
    for number in range(1, count + 1):
        yield Step(number, 1, {"loss": float(number)}, torch.full((1, 3, 5, 7), float(number)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_made_is_written_where_the_steps_end_early(
    tmp_path: Path, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> Iterator[Step]:
        yield from steps(2)
        raise error

    with pytest.raises(error):
        write_result(tmp_path / "out", SETTINGS, interrupted(), 50, 0, {})
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/picture.png")), np.full((5, 7, 3), 2))
    assert [line["loss"] for line in json.loads((tmp_path / "out/losses.json").read_text())] == [1, 2]
    told = capsys.readouterr().err
    assert "out: ended after iteration 2 of at most 50; picture.png, of 7x5 pixels, and losses.json show" in told


@pytest.mark.parametrize(
    ("loss", "settings", "remedy"),
    [
        (float("inf"), SETTINGS, "a smaller --step, or smaller weights"),
        (float("nan"), StyleSettings("", "", {}, {}), "--line_search strong_wolfe, or smaller weights"),
    ],
)
def test_a_loss_that_is_no_number_is_an_error(
    tmp_path: Path, loss: float, settings: DreamSettings | StyleSettings, remedy: str
) -> None:
    diverged = Step(3, 1, {"loss": loss}, torch.full((1, 3, 5, 7), float("nan")))
    with pytest.raises(ValueError, match=f"the loss is {loss} in iteration 3; take {remedy}"):
        write_result(tmp_path, settings, [*steps(2), diverged], 3, 0, {})
    assert np.array_equal(np.asarray(Image.open(tmp_path / "picture.png")), np.full((5, 7, 3), 2))
    assert len(json.loads((tmp_path / "losses.json").read_text(), parse_constant=pytest.fail)) == 2


def test_a_full_disk_leaves_no_part_of_a_picture(tmp_path: Path) -> None:
    noise = torch.rand((1, 3, 60, 60), generator=torch.Generator().manual_seed(0)) * 255
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*picture\.png"):
            write_result(tmp_path, SETTINGS, [Step(1, 1, {"loss": 1.0}, noise)], 1, 0, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]


def test_a_start_without_an_iteration_is_no_result(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Step]:
        yield Step(0, 1, {"loss": 1.0}, torch.zeros(1, 3, 5, 7))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_result(tmp_path, SETTINGS, interrupted(), 50, 0, {})
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_end_while_the_first_iteration_is_counted_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(result.Progress, "update", interrupted)
    with pytest.raises(error):
        write_result(tmp_path, SETTINGS, steps(2), 50, 0, {})
    assert np.array_equal(np.asarray(Image.open(tmp_path / "picture.png")), np.full((5, 7, 3), 1))
    assert [line["iteration"] for line in json.loads((tmp_path / "losses.json").read_text())] == [1]


def test_no_picture_of_an_iteration_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Step] = []

    def keep(folder: Path, records: Sequence[Step]) -> None:
        kept.extend(records)

    monkeypatch.setattr(result, "_write_losses", keep)
    write_result(tmp_path, SETTINGS, steps(3), 3, 0, {})
    assert [step.number for step in kept] == [1, 2, 3]
    assert [step.pixels.untyped_storage().nbytes() for step in kept] == [0, 0, 0]
