"""tools/paste.py and tools/detect.py as they are called: files in, files and messages out."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import main
from datamodules import Digits, pasted_objects
from detection import Boxes, Settings
from detection.drawing import drawn
from predictor import Predictor
from tools import detect, paste

PROJECT = Path(main.__file__).parent
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
CONFIG = ["--config", str(PROJECT / "experiments/detection_digits.yaml")]


Call = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has seen few windows."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(pasted_objects, "SCENES", {"train": 40, "val": 8, "test": 8})
        config = ["--config", str(PROJECT / "experiments/unpaddednet_pasted_digits.yaml")]
        main.run_command(["fit", *config, "--trainer.max_epochs", "1", "--name", "a", *QUIET])
    return folder / "runs/unpaddednet_pasted_digits/a"


@pytest.fixture(scope="module")
def made(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures with what is in them."""
    folder = tmp_path_factory.mktemp("made") / "pictures"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["paste.py", str(folder), "--pictures", "3", "--seed", "5", "--root", str(shards)])
        paste.main()
    return folder


def test_pasted_pictures_and_what_is_in_them(made: Path, shards: Path, call: Call, tmp_path: Path) -> None:
    truth = json.loads((made / "boxes.json").read_text())
    assert truth["made_with"] == {"objects": "Digits", "seed": 5, "sides": [32, 96], "most": 4}
    assert [each["file"] for each in truth["pictures"]] == ["000.png", "001.png", "002.png"]
    assert np.asarray(Image.open(made / "001.png")).shape == (240, 320, 3)
    names = {box["class"] for each in truth["pictures"] for box in each["boxes"]}
    assert names <= set(Digits.classes)
    flags = ["--pictures", 3, "--seed", 5, "--root", shards]
    assert call(paste, tmp_path / "again", *flags).status == 0
    for file in made.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    for taken in (tmp_path / "again", tmp_path / "again/boxes.json"):
        refused = call(paste, taken, *flags)
        assert (refused.status, f"{taken} is not an empty folder" in refused.err) == (1, True)
    assert "argument --seed: -1 is less than 0" in call(paste, tmp_path / "new", "--seed", -1).err


def test_pictures_of_cifar10_are_pasted_as_they_are(raw: Path, call: Call, tmp_path: Path) -> None:
    flags = ["--objects", "CIFAR10", "--source", raw, "--pictures", 2, "--sides", 32, 32]
    assert call(paste, tmp_path / "cifar", *flags).status == 0
    truth = json.loads((tmp_path / "cifar/boxes.json").read_text())
    tested = paste.tested(paste.datamodules.CIFAR10(source=str(raw)))
    for each in truth["pictures"]:
        picture = np.asarray(Image.open(tmp_path / "cifar" / each["file"]))
        for box in each["boxes"]:
            left, top, right, bottom = box["box"]
            cut = picture[top:bottom, left:right]
            (row,) = np.nonzero((tested.images == cut).all(axis=(1, 2, 3)))[0][:1]
            assert paste.datamodules.CIFAR10.classes[tested.labels[row]] == box["class"]


def test_detections_of_a_folder(run: Path, made: Path, call: Call, tmp_path: Path) -> None:
    pictures = os.path.relpath(made, tmp_path)  # a short name: long ones take two lines of the table
    done = call(detect, run, pictures, *CONFIG, "--probability", 0.15, "--out", "found")
    assert done.status == 0, done.err
    assert "path convolutional: logits differ" in done.out
    record = json.loads((tmp_path / "found/detections.json").read_text())
    assert record["settings"]["step"] == 4
    assert record["settings"]["probability"] == 0.15
    assert record["settings"]["window"] == 32
    assert record["network"] == str(run)
    assert [Path(each["file"]).name for each in record["pictures"]] == ["000.png", "001.png", "002.png"]
    predictor = Predictor.load(run)
    all_boxes = [(each, box) for each in record["pictures"] for box in each["boxes"]]
    assert all_boxes
    for each, box in all_boxes[:20]:
        assert (each["width"], each["height"]) == (320, 240)
        left, top, right, bottom = box["box"]
        assert 0 <= left < right <= 320
        assert 0 <= top < bottom <= 240
        assert box["class"] != "background"
        assert 0.15 <= box["probability"] <= 1
        if right - left == 32:  # of the first level: the window is there in the file
            window = np.asarray(Image.open(each["file"]))[int(top) : int(bottom), int(left) : int(right)]
            expected = predictor.probabilities([window])[0][predictor.classes.index(box["class"])]
            assert box["probability"] == pytest.approx(expected, abs=1e-4)
    for name in ("000-000", "001-001", "002-002"):
        before, after = (Image.open(tmp_path / f"found/{name}-{when}.png") for when in ("before", "after"))
        assert before.size == after.size == (640, 480)
    assert all(f"{name}.png (" in done.out for name in ("000", "001", "002"))


def test_both_paths_find_the_same(run: Path, made: Path, call: Call, tmp_path: Path) -> None:
    found = {}
    for path in ("windows", "convolutional"):
        flags = ["--probability", 0.1, "--path", path, "--out", path, "--draw", "false", "--factor", 2, "--step", 12]
        assert call(detect, run / "checkpoints/best.ckpt", made / "000.png", *CONFIG, *flags).status == 0
        found[path] = json.loads((tmp_path / path / "detections.json").read_text())["pictures"][0]
        assert sorted(each.name for each in (tmp_path / path).iterdir()) == ["detections.json"]
    assert found["windows"]["boxes_before"] == found["convolutional"]["boxes_before"] > 0
    for one, other in zip(*(found[path]["boxes"] for path in found), strict=True):
        assert (one["box"], one["class"]) == (other["box"], other["class"])
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_average_precision_is_told(run: Path, made: Path, call: Call, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    flags = [
        "--probability",
        0.1,
        "--step",
        8,
        "--factor",
        2,
        "--truth",
        made / "boxes.json",
        "--draw",
        "false",
        "--out",
        "found",
    ]
    done = call(detect, run, made, *CONFIG, *flags)
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "found/detections.json").read_text())
    record = found["score"]
    assert f"mean average precision at an overlap of 0.5: {record['mean']:.4f}" in done.out
    truth = json.loads((made / "boxes.json").read_text())
    assert record["objects"] == sum(len(each["boxes"]) for each in truth["pictures"])
    assert record["boxes"] == sum(len(each["boxes"]) for each in found["pictures"]) > 0


def test_pictures_without_objects_are_searched_all_the_same(run: Path, made: Path, call: Call, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    (tmp_path / "truth.json").write_text(json.dumps({"pictures": [{"file": "000.png", "boxes": []}]}))
    flags = ["--draw", "false", "--factor", 2, "--truth", "truth.json", "--out", "found"]
    done = call(detect, run, made / "000.png", *CONFIG, *flags)
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "found/detections.json").read_text())
    count = len(found["pictures"][0]["boxes"])
    assert (found["score"]["mean"], found["score"]["boxes"]) == (None, count)
    assert f"no object is in the pictures, so there is no average precision; {count} boxes" in done.out


def test_what_truth_lacks_is_told_before_the_search(run: Path, made: Path, call: Call, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    Image.new("RGB", (32, 32)).save(tmp_path / "new.png")
    flat = [{"file": "000.png", "boxes": [{"box": [5, 5, 5, 9], "class": "0"}]}]
    (tmp_path / "flat.json").write_text(json.dumps({"pictures": flat}))
    for picture, truth, words in (
        (tmp_path / "new.png", made / "boxes.json", "--truth does not say what is in "),
        (made / "000.png", tmp_path / "flat.json", "flat.json has a box in 000.png that is not left, top, right and"),
    ):
        refused = call(detect, run, picture, *CONFIG, "--truth", truth, "--out", "found")
        assert refused.status == 1
        assert words in refused.err
        assert not (tmp_path / "found").exists()


def test_what_was_found_is_kept_if_it_cannot_be_scored(
    run: Path, made: Path, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pycocotools")

    def failing(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(detect, "score", failing)
    flags = ["--draw", "false", "--factor", 2, "--truth", made / "boxes.json", "--out", "found"]
    assert call(detect, run, made / "000.png", *CONFIG, *flags).status == 1
    found = json.loads((tmp_path / "found/detections.json").read_text())
    assert [each["file"] for each in found["pictures"]] == [str(made / "000.png")]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [(KeyboardInterrupt(), 130, ""), (OSError(28, "No space left on device"), 1, "no space left on device; make room")],
)
def test_what_was_found_is_kept_if_the_search_ends_early(
    run: Path,
    made: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    error: BaseException,
    status: int,
    words: str,
) -> None:
    read = detect.picture
    flags = [made, *CONFIG, "--draw", "false", "--factor", 2, "--probability", 0.1, "--out", "found"]
    assert call(detect, run, *flags).status == 0
    whole = json.loads((tmp_path / "found/detections.json").read_text())
    assert whole["not_searched"] == []

    def until_the_third(place: Path, size: int | None) -> np.ndarray:
        if place.name == "002.png":
            raise error
        return read(place, size)

    monkeypatch.setattr(detect, "picture", until_the_third)
    done = call(detect, run, *flags)
    assert (done.status, words in done.err) == (status, True)
    assert "ended after 2 of 3 pictures" in done.err
    found = json.loads((tmp_path / "found/detections.json").read_text())
    assert found["pictures"] == whole["pictures"][:2]
    assert found["not_searched"] == [str(made / "002.png")]


def test_a_search_that_finds_nothing_in_time_leaves_the_earlier_file(
    run: Path, made: Path, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "found").mkdir()
    (tmp_path / "found/detections.json").write_text("earlier")
    monkeypatch.setattr(detect, "picture", interrupted)
    assert call(detect, run, made, *CONFIG, "--out", "found").status == 130
    assert (tmp_path / "found/detections.json").read_text() == "earlier"


def test_a_missing_package_is_named_before_the_search(
    run: Path, made: Path, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    done = call(detect, run, made, *CONFIG, "--truth", made / "boxes.json", "--out", "found")
    assert done.status == 1
    assert done.err == "error: pycocotools is not installed; pip install -e '.[detection]'\n"
    assert not (tmp_path / "found").exists()


def test_pictures_of_one_name_are_not_compared_with_the_same_truth(
    run: Path, made: Path, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(made / "001.png", tmp_path / "other/000.png")
    done = call(detect, run, made, tmp_path / "other", *CONFIG, "--truth", made / "boxes.json")
    assert done.status == 1
    assert "two are called 000.png" in done.err


def test_what_cannot_be_searched_is_named_and_the_rest_is(run: Path, made: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (20, 40)).save(tmp_path / "small.png")
    places = [made / "000.png", tmp_path / "text.png", tmp_path / "small.png", tmp_path / "missing.png"]
    done = call(detect, run, *places, *CONFIG, "--draw", "false")
    assert done.status == 1
    assert "text.png cannot be searched: it is no picture" in done.err
    assert "small.png cannot be searched: its 20x40 pixels are fewer than the window's 32x32; --resize 32" in done.err
    assert "missing.png cannot be searched: No such file" in done.err
    assert "1 pictures searched" in done.out
    assert call(detect, run, tmp_path / "small.png", *CONFIG, "--draw", "false", "--resize", 32).status == 0


@pytest.mark.skipif(sys.platform == "darwin", reason="its disks take no such name")
def test_a_file_whose_name_is_no_text(run: Path, made: Path, call: Call, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.png")  # Latin-1, as old disks have it
    shutil.copy(made / "000.png", file)
    done = call(detect, run, file, *CONFIG, "--draw", "false", "--factor", 2, "--out", "found")
    assert done.status == 0, done.err
    assert [each["file"] for each in json.loads((tmp_path / "found/detections.json").read_text())["pictures"]] == [
        str(file)
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--step", "6", "--path", "convolutional"], "stride of 4, so the step can be 4, 8, 12, 16 and so on, not 6"),
        (["--background", "[backgroud]"], "backgroud is no class of this network; such are background"),
        (["--factor", "1"], "factor is 1.0; it must be greater than 1"),
        (["--stepp", "6"], "did you mean step?"),
        (["--path", "fast"], "fast"),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_mistakes(run: Path, made: Path, call: Call, flags: list[str], words: str) -> None:
    done = call(detect, run, made / "000.png", *CONFIG, *flags)
    assert done.status in (1, 2)
    assert words in done.err
    assert len(done.err.splitlines()) <= 5


def test_a_key_that_does_not_exist_in_the_file(run: Path, made: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("probabilty: 0.7\n")
    done = call(detect, run, made / "000.png", "--config", tmp_path / "wrong.yaml")
    assert done.status == 1
    assert "did you mean probability?" in done.err


def test_a_key_that_stands_twice_in_the_file(run: Path, made: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("step: 16\nstep: 8\n")
    done = call(detect, run, made / "000.png", "--config", tmp_path / "twice.yaml", "--out", tmp_path / "out")
    assert done.status == 1
    assert "twice.yaml has step in lines 1 and 2; leave one of them out" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["detection", "detection_digits"])
def test_the_shipped_settings_are_read(name: str) -> None:
    file = PROJECT / f"experiments/{name}.yaml"
    command = detect.parser().parse_args(["network", "picture", "--config", str(file)])
    written = yaml.safe_load(file.read_text())
    assert {key: command[key] for key in written} == written
    Settings(**written)


def test_boxes_are_drawn_where_they_are() -> None:
    black = np.zeros((500, 600, 3), np.uint8)
    boxes = Boxes(torch.tensor([[100.0, 50, 300, 150]]), torch.tensor([0]), torch.tensor([0.9]))
    lines = np.asarray(drawn(black, boxes, ["a", "b"], labelled=False)).any(axis=2)
    down, across = np.nonzero(lines)
    assert (across.min(), across.max() + 1, down.min(), down.max() + 1) == (100, 300, 50, 150)
    assert not lines[60:140, 110:290].any()
    labelled = np.asarray(drawn(black, boxes, ["a", "b"], labelled=True)).any(axis=2)
    assert labelled[30:50, 100:140].mean() > 0.5  # the label is above the box


@pytest.mark.slow
def test_trained_as_shipped_it_finds_digits_of_many_sizes(call: Call, shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    config = ["--config", str(PROJECT / "experiments/unpaddednet_pasted_digits.yaml")]
    main.run_command(["fit", *config, "--name", "a", *QUIET])
    assert call(paste, "made", "--pictures", 100, "--seed", 1, "--root", shards).status == 0
    flags = ["--truth", "made/boxes.json", "--draw", "false", "--out", "found"]
    assert call(detect, "runs/unpaddednet_pasted_digits/a", "made", *CONFIG, *flags).status == 0
    assert json.loads((tmp_path / "found/detections.json").read_text())["score"]["mean"] >= 0.6


def test_what_was_found_is_kept_if_it_cannot_be_drawn(
    run: Path, made: Path, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    done = call(detect, run, made, *CONFIG, "--factor", 2, "--out", "found")
    assert (done.status, "found/000-000-before.png cannot be opened or written: no space" in done.err) == (1, True)
    found = json.loads((tmp_path / "found/detections.json").read_text())
    assert [Path(each["file"]).name for each in found["pictures"]] == ["000.png"]
    assert [Path(each).name for each in found["not_searched"]] == ["001.png", "002.png"]
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["detections.json"]
