"""One page over runs: its figures are those of their files, and it needs nothing but itself."""

import base64
import io
import json
import math
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import main
from callbacks.prediction_store import PROBABILITIES, Predictions
from callbacks.training_monitor import SCORES
from datamodules import Digits
from evaluation import evaluate, mistakes
from tools import report

PROJECT = Path(main.__file__).parent
CHROMIUM = shutil.which("chromium")
CONFIG = (
    "seed_everything: {seed}\nmodel: {{class_path: lightning_modules.MiniVGGNet, init_args: {{weight_decay: {decay}}}}}"
    "\ndata: {{class_path: datamodules.Digits, init_args: {{root: {root}}}}}\ntrainer: {{max_epochs: 3}}\n"
)
HISTORY = [
    {"epoch": 1, "lr": 0.1, "train/loss": 2.1, "train/top1": 0.3, "val/loss": 1.9, "val/top1": 0.41},
    {"epoch": 2, "lr": 0.1, "train/loss": 1.2, "train/top1": 0.6, "val/loss": 1.0, "val/top1": 0.83},
    {"epoch": 3, "lr": 0.1, "train/loss": 0.7, "train/top1": 0.8, "val/loss": None, "val/top1": 0.72},
]
SESSION = {"seconds": 4000, "commit": "0123456789abcdef+changes", "hardware": "a <b>machine</b>", "command": "main.py"}


def predictions(shards: Path, names: list[str], wrong: int = 20, seed: int = 0) -> Predictions:
    """Of the first 60 test pictures, of which so many are named wrongly."""
    rng, classes = np.random.default_rng(seed), len(names)
    labels = np.arange(60) % classes
    logits = rng.normal(size=(60, classes))
    said = np.where(np.arange(60) < wrong, (labels + rng.integers(1, classes, 60)) % classes, labels)
    logits[np.arange(60), said] += rng.uniform(5, 9, 60)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    split = Digits(root=str(shards)).checksum_of("test")
    return Predictions(probabilities.astype(np.float32), np.arange(60), labels, names, split, epoch=2)


def run(folder: Path, shards: Path, found: Predictions | None, seed: int = 1, decay: float = 0.0) -> Path:
    """A run's folder as training and test would leave it."""
    (folder / "report").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(seed=seed, root=shards, decay=decay))
    (folder / "history.json").write_text(json.dumps(HISTORY))
    (folder / "sessions.json").write_text(json.dumps([SESSION]))
    if found:
        found.save(folder / PROBABILITIES)
        metrics = {"samples": 60, "test/top1": float(found.right().mean()), "test/top5": 0.91}
        (folder / "report/metrics.json").write_text(json.dumps(metrics))
    return folder


DIGITS = [f"digit {number}" for number in range(10)]


class Page(HTMLParser):
    """Tables as rows of texts by their class, all tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._table: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._table = []
            self.tables.setdefault(dict(attrs)["class"] or "", []).append(self._table)
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self._table[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.tags if each == tag]


def embedded(image: dict[str, str | None]) -> Image.Image:
    kind, _, data = (image["src"] or "").partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_figures_are_those_of_the_files(tmp_path: Path, shards: Path) -> None:
    found = predictions(shards, DIGITS)
    page = Page(report.page([run(tmp_path / "exp/a", shards, found, seed=7)]))
    deviation = 100 * math.sqrt((40 / 60) * (20 / 60) / 60)
    assert page.tables["runs"][0][1] == [
        *("a", "exp", "7", "3", "83.00 %", f"66.67 % ± {deviation:.1f}", "1 h 7 min"),
        *("0123456789+changes", "a <b>machine</b>"),
    ]
    said = found.probabilities.argmax(axis=1)
    counts = confusion_matrix(found.labels, said)
    assert [row[1:] for row in page.tables["confusion"][0][1:]] == [[str(n) for n in row] for row in counts]
    expected = precision_recall_fscore_support(found.labels, said, zero_division=0)
    for place, (name, *scores, support) in enumerate(page.tables["scores"][0][1:]):
        assert (name, int(support)) == (DIGITS[place], expected[3][place])
        assert [float(score) for score in scores] == pytest.approx(
            [100 * each[place] for each in expected[:3]], abs=0.051
        )
    np.fill_diagonal(counts, 0)
    confused = [int(row[2]) for row in page.tables["pairs"][0][1:]]
    assert confused == sorted(counts[counts > 0].tolist(), reverse=True)[:10]
    assert "top-1 66.67 % of 60 pictures, top-5 91.00 %; the checkpoint of epoch 2" in page.text
    assert "What is missing" not in page.text


def test_the_surest_mistakes_with_their_pictures(tmp_path: Path, shards: Path) -> None:
    found = predictions(shards, DIGITS)
    page = Page(report.page([run(tmp_path / "a", shards, found)]))
    wrong = [row for row in range(60) if found.probabilities[row].argmax() != found.labels[row]]
    surest = sorted(wrong, key=lambda row: -found.probabilities[row].max())[:12]
    data = Digits(root=str(shards))
    data.setup("test")
    images = page.of("img")
    assert [int(row) for row in re.findall(r"row (\d+)", page.text)] == surest
    for row, image in zip(surest, images, strict=True):
        np.testing.assert_array_equal(np.asarray(embedded(image)), data.splits["test"][row][0])
        said = DIGITS[found.probabilities[row].argmax()]
        assert image["alt"] == f"Picture of the class {DIGITS[found.labels[row]]}, taken for {said}"


def test_a_mistake_names_its_file(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "files", lambda self, split: [f"digits/<{row}>.png" for row in range(450)])
    text = report.page([run(tmp_path / "a", shards, predictions(shards, DIGITS))])
    assert len(re.findall(r'<span title="digits/&lt;(\d+)&gt;.png">&lt;\1&gt;.png</span>', text)) == 12


def test_curves_go_through_the_history(tmp_path: Path, shards: Path) -> None:
    text = report.page([run(tmp_path / "a", shards, None)])
    drawings = re.findall(r"<svg viewBox.*?</svg>", text, re.DOTALL)
    for drawing, metric, scale in zip(drawings, ("loss", "top1"), (1, 100), strict=True):
        ticks = re.findall(r'd="M\d+ ([\d.]+)H.*?>([\d.]+)</text>', drawing)
        (bottom, low), (top, high) = ([float(number) for number in tick] for tick in (ticks[0], ticks[-1]))
        for stage, words in (("train", "a, training"), ("val", "a, validation")):
            path = re.search(rf'<title>{words}</title><path d="M([^"]+)"', drawing)[1]
            heights = [float(point.split(" ")[1]) for point in path.split("L")]
            values = [low + (bottom - height) / (bottom - top) * (high - low) for height in heights]
            expected = [epoch[f"{stage}/{metric}"] for epoch in HISTORY if epoch[f"{stage}/{metric}"] is not None]
            assert values == pytest.approx([scale * value for value in expected], abs=0.003 * (high - low))


def test_settings_that_differ_and_the_mean_over_seeds(tmp_path: Path, shards: Path) -> None:
    found = [predictions(shards, DIGITS, wrong) for wrong in (10, 20, 24)]
    runs = [run(tmp_path / f"s{seed}", shards, each, seed) for seed, each in enumerate(found)]
    accuracies = [100 * float(each.right().mean()) for each in found]
    page = Page(report.page([*runs, runs[0]]))  # one that is named twice is there once
    assert page.tables["settings"][0] == [["setting", "s0", "s1", "s2"], ["seed_everything", "0", "1", "2"]]
    assert f"of 3 seeds {statistics.mean(accuracies):.2f} % ± {statistics.stdev(accuracies):.2f}" in page.text
    other = run(tmp_path / "other", shards, found[0], seed=9, decay=0.5)
    page = Page(report.page([*runs, other]))
    assert page.tables["settings"][0][2] == ["model.init_args.weight_decay", "0.0", "0.0", "0.0", "0.5"]
    assert "seed alone" not in page.text
    found[0].epoch = 1  # the best is another
    found[0].save(runs[0] / PROBABILITIES)
    page = Page(report.page(runs))
    assert "seed alone" not in page.text
    assert "The test is of the checkpoint of epoch 1, and the run was trained on since, or another ch" in page.text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, True),  # the median is 0.5
        ({"config": {"seed_everything": 1}}, False),  # the seed of the first
        ({"epochs": 2}, False),
        ({"metrics": {}}, False),  # it was not tested
        ({"outdated": True}, False),
    ],
)
def test_a_mean_over_seeds_is_of_runs_alike(change: dict, told: bool) -> None:
    plain = {"epochs": 3, "score": SCORES[0], "classifies": True, "outdated": False}
    runs = [
        {**plain, "config": {"seed_everything": seed}, "metrics": {"test/top1": top1}}
        for seed, top1 in ((1, 0.5), (2, 0.5), (3, 0.8))
    ]
    sections = [report.Section(SimpleNamespace(**each), None) for each in (*runs[:2], {**runs[2], **change})]
    found = report.over_seeds(sections, {"seed_everything", "data.init_args.root"})
    assert found == (pytest.approx((3, 0.6, 0.03**0.5)) if told else None)
    assert report.over_seeds(sections, {"model.init_args.weight_decay"}) is None


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, report.ABSENT), (59, "59 s"), (60, "1 min"), (119, "2 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, told: str) -> None:
    assert report.duration(seconds) == told


@pytest.mark.parametrize(("on_test", "validated"), [("false", 0.83), ("true", 0.72)])
def test_validation_is_of_the_epoch_that_is_tested(
    tmp_path: Path, shards: Path, on_test: str, validated: float
) -> None:
    folder = run(tmp_path / "a", shards, None)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("{root:", f"{{validate_on_test: {on_test}, root:"))
    assert report.section(folder).validation == validated


def test_confusions_by_hand() -> None:
    said, labels = np.array([1, 1, 0, 0, 1, 2, 1]), np.array([0, 0, 0, 1, 1, 2, 2])
    tested = evaluate(Predictions(np.eye(3)[said], np.arange(7), labels, ["cat", "dog", "cow"], "split"))
    assert tested.confusion == [[1, 2, 0], [1, 1, 0], [0, 1, 1]]
    assert tested.pairs == [("cat", "dog", 2, 3), ("dog", "cat", 1, 2), ("cow", "dog", 1, 2)]  # of three cats
    assert (tested.wrong, tested.heat_map) == (4, None)


@pytest.mark.parametrize(("classes", "rows"), [(20, 20), (21, 0)])
def test_confusions_of_more_than_twenty_classes_are_a_picture(classes: int, rows: int) -> None:
    every = np.arange(classes)
    tested = evaluate(Predictions(np.eye(classes), every, every, [f"c{label}" for label in every], "split"))
    assert (len(tested.confusion), tested.heat_map is None) == (rows, bool(rows))


def test_a_mistake_has_the_probability_of_both_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((1, 4, 4, 3), np.uint8)
    monkeypatch.setattr("evaluation.tested_pictures", lambda run, rows, split: (pixels, [f"row {rows[0]}"]))
    probabilities = np.array([[0.25, 0.125, 0.625], [0.5, 0.25, 0.25]])
    found = Predictions(probabilities, np.array([7, 8]), np.array([1, 0]), ["cat", "dog", "cow"], "split")
    (mistake,) = mistakes(tmp_path, found)
    assert (mistake.true, mistake.said, mistake.file) == ("dog", "cow", "row 7")
    assert (mistake.probability, mistake.of_true) == (0.625, 0.125)


def test_the_page_needs_nothing_else(tmp_path: Path, shards: Path) -> None:
    runs = [run(tmp_path / folder / "a", shards, predictions(shards, DIGITS)) for folder in ("one", "two")]
    text = report.page(runs)
    page = Page(text)
    assert {"a", "img", "svg"} <= {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in {"src", "href", "srcset", "xlink:href"} & set(attributes):
            assert (attributes[name] or "").startswith(("data:", "#"))
    assert "url(" not in text
    assert "@import" not in text
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(anchors)) == len(anchors)
    assert {(link["href"] or "")[1:] for link in page.of("a")} <= set(anchors)
    assert page.of("html")[0]["lang"] == "en"
    assert "2 runs: one, two" in page.text
    assert all(image["alt"] for image in page.of("img"))
    assert [row[0] for row in page.tables["runs"][0][1:]] == ["one/a", "two/a"]


def test_what_comes_from_files_is_text(tmp_path: Path, shards: Path) -> None:
    names = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', *DIGITS[2:]]
    runs = [run(tmp_path / f"<i>{seed}", shards, predictions(shards, names), seed) for seed in (1, 2)]
    (runs[0] / "config.yaml").write_text((runs[0] / "config.yaml").read_text() + "note: <script>1</script>\n")
    text = report.page(runs)
    page = Page(text)
    assert not {"script", "i", "b"} & {tag for tag, _ in page.tags}
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert [row[0] for row in page.tables["scores"][0][1:3]] == names[:2]
    assert page.tables["settings"][0][0][1:] == ["<i>1", "<i>2"]
    assert page.tables["settings"][0][2][1] == "<script>1</script>"


def test_parts_that_are_not_there_are_named(tmp_path: Path, shards: Path) -> None:
    untested = run(tmp_path / "untested", shards, None)
    elsewhere = run(tmp_path / "elsewhere", tmp_path / "nothing", predictions(shards, DIGITS))
    found = predictions(shards, DIGITS)
    found.split = "another"
    others = run(tmp_path / "others", shards, found)
    damaged = run(tmp_path / "damaged", shards, predictions(shards, DIGITS, wrong=0))
    (damaged / "history.json").write_text("[{")
    (damaged / "sessions.json").unlink()
    (damaged / PROBABILITIES).write_bytes(b"no file")
    page = Page(report.page([untested, elsewhere, others, damaged]))
    for words in (
        f"There is no report/metrics.json: the run is not tested; main.py test --run {untested} does that.",
        f"which holds the pictures of {elsewhere}; a root",
        f"holds other pictures than {others} was tested on",
        "history.json cannot be read",
        "There is no sessions.json",
        "probabilities.h5 is damaged",
    ):
        assert words in page.text
    assert [row[5].split(" ")[0] for row in page.tables["runs"][0][1:]] == ["not", "66.67", "66.67", "100.00"]
    assert page.text.count("20 pictures were named wrongly; none can be shown.") == 2
    assert not page.of("img")
    assert len(page.tables["confusion"]) == 2


@pytest.mark.parametrize(
    ("metrics", "tested", "validated", "told", "title"),
    [
        ({"psnr": 29.5, "ssim": 0.9}, {"test/psnr": 31.4159, "test/ssim": None}, "29.50 dB", "31.42 dB", "PSNR, dB"),
        ({"discriminator": 0.75}, None, "75.00 %", report.ABSENT, "Accuracy of the discriminator, %"),
    ],
)
def test_a_run_that_trained_no_classifier(
    tmp_path: Path, shards: Path, metrics: dict, tested: dict | None, validated: str, told: str, title: str
) -> None:
    folder = run(tmp_path / "a", shards, None)
    history = [{"epoch": 1, "lr": 0.1, **{f"{stage}/{m}": v for m, v in metrics.items() for stage in ("train", "val")}}]
    (folder / "history.json").write_text(json.dumps(history))
    if tested:
        (folder / "report/metrics.json").write_text(json.dumps(tested))
    page = Page(report.page([folder]))
    assert page.tables["runs"][0][1][4:6] == [validated, told]
    assert title in page.text
    assert "report/" not in page.text
    assert "Accuracies are top-1" not in page.text
    assert (f"psnr 31.42, ssim {report.ABSENT}" in page.text) == bool(tested)


def test_no_mistake_and_a_probability_that_is_no_number(tmp_path: Path, shards: Path) -> None:
    whole = run(tmp_path / "whole", shards, predictions(shards, DIGITS, wrong=0))
    found = predictions(shards, DIGITS, wrong=0)
    found.probabilities[11] = np.nan
    page = Page(report.page([whole, run(tmp_path / "nan", shards, found)]))
    assert "No picture was named wrongly." in page.text
    assert [row[-1] for row in page.tables["confusion"][1]] == ["not finite", "0", "1", *["0"] * 8]
    assert "1 picture was named wrongly; none can be shown." in page.text


def test_many_classes_are_a_picture(tmp_path: Path, shards: Path) -> None:
    found = predictions(shards, [f"class {number}" for number in range(25)])
    page = Page(report.page([run(tmp_path / "a", shards, found)]))
    assert "confusion" not in page.tables
    assert [len(table) - 1 for table in page.tables["scores"]] == [10, 25]
    counts = confusion_matrix(found.labels, found.probabilities.argmax(axis=1))
    shares = counts / counts.sum(axis=1, keepdims=True)
    alpha = np.asarray(embedded(page.of("img")[0]))[..., 3]
    np.testing.assert_allclose(alpha / 255, np.sqrt(shares), atol=0.003)


def test_the_command(call: Callable, tmp_path: Path, shards: Path) -> None:
    folder, out = run(tmp_path / "a", shards, predictions(shards, DIGITS)), tmp_path / "page.html"
    assert call(report, folder, "--out", out).out.startswith(f"report: {out} (")
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_what_cannot_be_done_is_said(call: Callable, tmp_path: Path, shards: Path) -> None:
    folder = run(tmp_path / "a", shards, None)
    refused = call(report, folder, tmp_path / "nowhere")
    assert refused.status == 1
    assert "nowhere is not a run's folder: it holds no config.yaml" in refused.err
    assert re.search(
        "the folder .*missing is not there", call(report, folder, "--out", tmp_path / "missing/page.html").err
    )


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_page_is_no_wider_than_a_phone(tmp_path: Path, shards: Path) -> None:
    names = [f"a class with a long-winded_name_{number}" for number in range(10)]
    runs = [run(tmp_path / (f"a_rather_long_name_{n}" * 2), shards, predictions(shards, names), n) for n in range(3)]
    measure = "<script>document.title = innerWidth + ' ' + document.documentElement.scrollWidth</script></body>"
    text = re.sub(r"<meta http-equiv=[^>]+>", "", report.page(runs)).replace("</body>", measure)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    flags += ["--window-size=400,800", "--hide-scrollbars", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *flags, (tmp_path / "page.html").as_uri()], capture_output=True, text=True)
    inner, scrolled = map(int, re.search(r"<title>(\d+) (\d+)</title>", done.stdout).groups())
    assert scrolled <= inner <= 500
