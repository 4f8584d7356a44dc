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
