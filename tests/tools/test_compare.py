"""Two tested runs side by side."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chi2

import main
from callbacks.prediction_store import PROBABILITIES, Predictions
from datamodules import Digits
from tools import compare

PROJECT = Path(main.__file__).parent
CONFIG = (
    "seed_everything: {seed}\nmodel: {{class_path: lightning_modules.MiniVGGNet}}\n"
    "data: {{class_path: datamodules.Digits, init_args: {{root: {root}}}}}\ntrainer: {{max_epochs: 1}}\n"
)


def run(
    folder: Path, shards: Path, seed: int, right: int, split: str = "", names: Sequence[str] = "0123456789"
) -> Path:
    """A run whose network is right on the first pictures."""
    (folder / "report").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(seed=seed, root=shards))
    labels = np.arange(60) % 10
    said = np.where(np.arange(60) < right, labels, (labels + 1) % 10)
    split = split or Digits(root=str(shards)).checksum_of("test")
    Predictions(np.eye(10, dtype=np.float32)[said], np.arange(60), labels, list(names), split).save(
        folder / PROBABILITIES
    )
    return folder


def test_settings_classes_verdict_and_pictures(call: Callable, tmp_path: Path, shards: Path) -> None:
    runs = run(tmp_path / "a", shards, 1, right=30), run(tmp_path / "b", shards, 2, right=45)
    done = call(compare, *runs, "--pictures", tmp_path / "flipped.png")
    assert done.status == 0, done.err
    assert "seed_everything" in done.out
    assert "max_epochs" not in done.out
    gains = re.findall(r"[+-]\d+\.\d", done.out)
    assert gains == [*["+33.3"] * 5, *["+16.7"] * 5]  # two of a class's six pictures, or one
    assert "A 50.00 %, B 75.00 % of 60 pictures; only A is right on 0, only B on 15: p = 6.1e-05" in done.out
    assert "15 of 15 pictures that flipped" in done.out
    pixels = np.asarray(Image.open(tmp_path / "flipped.png").convert("L"))
    assert pixels.shape[1] == 960
    assert len(np.unique(pixels)) > 20


def test_brackets_of_classes_and_settings_are_shown(call: Callable, tmp_path: Path, shards: Path) -> None:
    names = ["cat [tabby]", "cat [/tabby]", ":dog:", *"3456789"]
    one, other = (run(tmp_path / name, shards, 1, right=30, names=names) for name in "ab")
    with (other / "config.yaml").open("a") as config:
        config.write("note: '[/b] [red]'\n")
    done = call(compare, one, other)
    assert done.status == 0, done.err
    assert all(name in done.out for name in [*names, "[/b] [red]"])


def test_the_p_value_tends_to_the_chi_squared_one() -> None:
    one = np.repeat([True, True, False, False], [700, 120, 160, 20])
    other = np.repeat([True, False, True, False], [700, 120, 160, 20])
    expected = chi2.sf((160 - 120 - 1) ** 2 / (160 + 120), 1)  # with Edwards' correction
    p, words = compare.verdict(one, other).split("p = ")[1].split(", ")
    assert float(p) == pytest.approx(expected, rel=0.02)
    assert words == "the difference is more than chance"
    assert compare.verdict(one, one).endswith("p = 1, chance explains the difference")


@pytest.mark.parametrize(("flipped", "end"), [(5, "p = 0.0625, chance explains the difference"), (6, "than chance")])
def test_chance_ends_at_one_in_twenty(flipped: int, end: str) -> None:
    other = np.arange(20) < 10 + flipped
    assert compare.verdict(np.arange(20) < 10, other).endswith(end)  # of 5 coins or 6, all on one side


def test_of_many_classes_those_that_gain_and_lose_most_are_shown() -> None:
    labels = np.arange(25)
    found = Predictions(np.eye(25, dtype=np.float32), labels, labels, [f"c{label}" for label in labels], "split")
    table = compare.table_of_classes(labels != 7, labels != 12, found)
    names, a, b, gains, counts = (list(column.cells) for column in table.columns)
    assert (names[0], a[0], b[0], gains[0]) == ("c7", "0.0", "100.0", "+100.0")
    assert (names[-1], a[-1], b[-1], gains[-1]) == ("c12", "100.0", "0.0", "-100.0")
    assert counts == ["1"] * 10


def test_flipped_pictures_are_drawn_by_the_surest_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(compare, "tested_pictures", lambda run, rows, split: (rows.tolist(), []))
    monkeypatch.setattr(compare, "draw", lambda rows, titles, *_, columns: drawn.extend(zip(rows, titles, strict=True)))
    rows, labels, names = np.array([10, 11, 12, 13]), np.zeros(4, int), ["cat", "dog"]
    one, other = (
        Predictions(np.array([[cat, 1 - cat] for cat in cats], np.float32), rows, labels, names, "split")
        for cats in ((0.9, 0.6, 0.2, 0.7), (0.8, 0.45, 0.95, 0.01))
    )
    compare.draw_flipped(tmp_path, one, other, np.array([1, 2, 3]), tmp_path / "x.png")
    assert drawn == [(13, "cat\nA: cat\nB: dog"), (12, "cat\nA: dog\nB: cat"), (11, "cat\nA: cat\nB: dog")]


def test_runs_that_cannot_be_compared(call: Callable, tmp_path: Path, shards: Path) -> None:
    one = run(tmp_path / "a", shards, 1, right=30)
    other = run(tmp_path / "b", shards, 1, right=30, split="two")
    found = Predictions.load(one)
    replace(found, rows=found.rows + 1).save(tmp_path / "c" / PROBABILITIES)
    for runs, words in (
        ((one, other), "and .*b on 60 others; runs can be compared"),
        ((one, tmp_path / "c"), "and .*c on 60 others; runs can be compared"),
        ((one, tmp_path), "has no report/prob"),
    ):
        refused = call(compare, *runs)
        assert refused.status == 1
        assert re.search(words, refused.err)
