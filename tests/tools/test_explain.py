"""Feature maps, Grad-CAM, mistakes and calibration, each against what can be worked out otherwise."""

import errno
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

import main
from callbacks.prediction_store import PROBABILITIES, Predictions
from datamodules import Digits
from lightning_modules import (
    CifarResNet,
    DeeperGoogLeNet,
    MiniGoogLeNet,
    MiniVGGNet,
    ResNet,
    TorchvisionModel,
)
from lightning_modules.layer_output import last_map
from pictures import refuse_to_replace
from predictor import Predictor
from tools import explain, feature_maps

PROJECT = Path(main.__file__).parent
CONFIG = "data: {{class_path: datamodules.Digits, init_args: {{root: {root}}}}}\n"
CONFIG += "model: {{class_path: lightning_modules.MiniVGGNet}}\ntrainer: {{max_epochs: 1}}\n"


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    pooled = nn.AdaptiveAvgPool2d(1)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), pooled, nn.Flatten(), nn.Linear(5, 4))
    plain = {"classes": list("abcd"), "stored_size": 12, "input_size": 12}
    return Predictor(network, {**plain, "shift": torch.full((1, 3, 1, 1), 127.5), "scale": torch.tensor(0.01)}).eval()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)


@pytest.fixture
def run(tmp_path: Path, shards: Path) -> Path:
    """A tested run on the digits: random probabilities."""
    logits = np.random.default_rng(0).normal(size=(300, 10)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.random.default_rng(1).integers(0, 10, 300)
    names = [f"digit {digit}" for digit in range(10)]
    rows = np.arange(300)
    split = Digits(root=str(shards)).checksum_of("test")
    Predictions(probabilities.astype(np.float32), rows, labels, names, split).save(tmp_path / "run" / PROBABILITIES)
    (tmp_path / "run/config.yaml").write_text(CONFIG.format(root=shards))
    return tmp_path / "run"


def test_no_picture_is_drawn_over(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).touch()
    for out in ("a.jpg", "b.png"):
        with pytest.raises(ValueError, match=f"{out} would be replaced; name a new file"):
            refuse_to_replace(tmp_path / out, [str(tmp_path / "b.png")])
    refuse_to_replace(tmp_path / "b.png", [str(tmp_path / "a.jpg")])  # an earlier sheet
    refuse_to_replace(tmp_path / "c.jpg", [str(tmp_path / "b.png")])
    (tmp_path / "d.pdf").touch()
    refuse_to_replace(tmp_path / "d.pdf", [])  # an earlier chart


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        (explain, ["calibration", "RUN", "a.jpg"]),
        (explain, ["mistakes", "RUN", "a.jpg"]),
        (feature_maps, ["RUN", "--filters", "a.jpg"]),
    ],
)
def test_no_photograph_is_replaced_where_none_is_asked_for(
    call: Callable, run: Path, tmp_path: Path, tool: ModuleType, words: list[str]
) -> None:
    (tmp_path / "a.jpg").write_text("a photograph")
    places = {"RUN": run, "a.jpg": tmp_path / "a.jpg"}
    code, _, errors = call(tool, *(places.get(word, word) for word in words))
    assert code == 1
    assert "would be replaced" in errors
    assert (tmp_path / "a.jpg").read_text() == "a photograph"


@pytest.mark.parametrize("layer", ["0", "1"])
@pytest.mark.parametrize("label", [None, 2])
def test_grad_cam_after_pooling_is_the_weighted_sum_of_maps(
    predictor: Predictor, image: np.ndarray, layer: str, label: int | None
) -> None:
    chosen, probability, evidence = explain.grad_cam(predictor, layer, image, label)
    with torch.no_grad():
        maps = predictor.network[0](predictor.normalized(torch.tensor(image[None])))
        logits = predictor.network[2:](maps.relu())[0]
    assert chosen == (logits.argmax() if label is None else label)
    assert probability == pytest.approx(logits.softmax(dim=0)[chosen].item(), abs=1e-6)
    active = (maps > 0).float() if layer == "0" else torch.ones_like(maps)  # ReLU passes no gradient below zero
    weights = predictor.network[4].weight.detach()[chosen] * active.mean(dim=(2, 3))[0]
    expected = torch.einsum("c,chw->hw", weights, maps[0] if layer == "0" else maps[0].relu()).relu()
    np.testing.assert_allclose(evidence, expected / expected.max(), atol=1e-5)


@pytest.mark.parametrize(
    ("network", "layer", "channels"),
    [
        (partial(MiniGoogLeNet, 3, 32), "net.10", 336),
        (partial(ResNet, 3, 32, stages=(1, 1, 1), filters=(8, 8, 16, 32)), "", 32),
        (partial(CifarResNet, 3, 32, depth=8), "", 64),
        (partial(DeeperGoogLeNet, 3, 64), "net.13", 832),
        (partial(MiniVGGNet, 3, 16), "", 64),
        (partial(TorchvisionModel, 3, 64, "resnet50"), "net.layer4", 2048),
        (partial(TorchvisionModel, 3, 64, "squeezenet1_1"), "", 512),
    ],
)
def test_evidence_lies_somewhere_by_default(network: Callable, layer: str, channels: int) -> None:
    """A layer behind a global pool would say nothing of where."""
    model = network(optimizer=torch.optim.SGD).eval()
    found = last_map(model)
    size = model.image_size
    plain = {"classes": list("abc"), "stored_size": size, "input_size": size, "shift": torch.zeros(1, 3, 1, 1)}
    predictor = Predictor(model, {**plain, "scale": torch.tensor(1 / 255)}).eval()
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    _, _, evidence = explain.grad_cam(predictor, found, image, None)
    assert min(evidence.shape) > 1
    assert len(feature_maps.feature_maps(predictor, found, image)) == channels
    assert layer in ("", found)


def test_a_network_without_maps_is_told() -> None:
    with torch.device("meta"):
        model = TorchvisionModel(3, 224, "vit_b_16").eval()
    with pytest.raises(ValueError, match="ends in no feature map of more than one place; name a layer with --layer"):
        last_map(model)


def test_a_sheet_has_room_for_so_many(predictor: Predictor, tmp_path: Path) -> None:
    for draw in (
        lambda: explain.draw_grad_cam(predictor, "0", None, ["none.png"] * 1025, tmp_path / "a.png"),
        lambda: feature_maps.draw_maps(torch.zeros(2050, 1, 1), "", tmp_path / "a.png"),
    ):
        with pytest.raises(ValueError, match="a sheet of 2050 pictures is too large; at most 2048 fit"):
            draw()


def test_the_overlay_is_brightest_where_the_evidence_is() -> None:
    evidence = np.zeros((3, 4), np.float32)
    evidence[0, 3] = 1
    light = explain.overlaid(np.zeros((12, 16, 3), np.uint8), evidence).sum(axis=2, dtype=int)
    assert light[0, 15] == light.max() > 300
    assert max(light[6:].max(), light[:, :10].max()) < 60


def test_feature_maps_are_those_of_the_layer_though_the_next_works_in_place(
    predictor: Predictor, image: np.ndarray
) -> None:
    found = feature_maps.feature_maps(predictor, "0", image)
    torch.testing.assert_close(found, predictor.network[0](predictor.normalized(torch.tensor(image[None])))[0].detach())
    assert found.min() < 0
    with pytest.raises(ValueError, match="gives no feature map"):
        feature_maps.feature_maps(predictor, "4", image)
    with pytest.raises(ValueError, match="no layer '9'"):
        feature_maps.feature_maps(predictor, "9", image)


def test_calibration_error_is_that_of_torchmetrics(run: Path) -> None:
    tested = Predictions.load(run)
    counts, sure, accuracy, error = explain.reliability(tested, 15)
    probabilities, labels = torch.from_numpy(tested.probabilities), torch.from_numpy(tested.labels)
    expected = multiclass_calibration_error(probabilities, labels, 10, n_bins=15, norm="l1").item()
    assert error == pytest.approx(expected, abs=1e-6)
    assert error > 0.2
    assert counts.sum() == 300
    there = counts > 0
    assert (accuracy[there] * counts[there]).sum() == tested.right().sum()
    assert np.isnan(sure[~there]).all()


def test_a_confidence_between_two_bins_is_of_the_lower() -> None:
    probabilities = np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0], [1.0, 0.0]], np.float32)
    rows = np.arange(4)
    tested = Predictions(probabilities, rows, np.array([0, 1, 0, 0]), ["a", "b"], "split")
    counts, sure, accuracy, error = explain.reliability(tested, 4)
    assert counts.tolist() == [0, 1, 1, 2]
    assert (sure[1:].tolist(), accuracy[1:].tolist()) == ([0.5, 0.75, 1.0], [1.0, 0.0, 1.0])
    assert error == (0.5 + 0.75 + 2 * 0) / 4  # by pictures, not by bins


def test_bars_of_calibration_are_accuracy_over_confidence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(explain, "save", lambda figure, path: drawn.append(figure))
    explain.draw_reliability(run, 4, tmp_path / "calibration.png")
    upper, lower = drawn[0].axes
    tested = Predictions.load(run)
    confidence, right = tested.probabilities.max(axis=1), tested.right()
    dots = upper.lines[1].get_xydata()
    for number, (accuracy, count, dot) in enumerate(zip(upper.patches, lower.patches, dots, strict=True)):
        within = (number / 4 < confidence) & (confidence <= (number + 1) / 4)
        assert accuracy.get_x() == count.get_x() == number / 4
        assert accuracy.get_height() == pytest.approx(right[within].mean())
        assert count.get_height() == within.sum() > 0
        assert dot == pytest.approx([confidence[within].mean(), right[within].mean()])


@pytest.mark.parametrize("drawing", [explain.draw_reliability, explain.draw_mistakes])
def test_a_full_disk_leaves_no_half_of_a_drawing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawing: Callable[[Path, int, Path], str]
) -> None:
    def full(figure: Figure, path: Path, format: str, dpi: float) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left on device: .*drawn.png"):
        drawing(run, 4, tmp_path / "drawn.png")
    assert not list(tmp_path.glob("drawn*"))


def test_a_drawing_without_an_ending_is_a_png(run: Path, tmp_path: Path) -> None:
    explain.draw_reliability(run, 4, tmp_path / "calibration")
    assert Image.open(tmp_path / "calibration").format == "PNG"


def test_mistakes_are_those_of_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "tested_pictures", lambda run, rows, split: (rows, [f"row {row}" for row in rows]))
    monkeypatch.setattr(explain, "draw", lambda *_, columns: None)
    probabilities = np.array([[0.75, 0.25], [0.625, 0.375], [0.125, 0.875]], np.float32)
    found = Predictions(probabilities, np.array([10, 11, 12]), np.array([0, 1, 0]), ["cat", "dog"], "split")
    found.save(tmp_path / PROBABILITIES)
    surest, other, _ = explain.draw_mistakes(tmp_path, 9, tmp_path / "x.png").splitlines()
    assert surest == "  row 12: cat, said: dog, 87.5 %"
    assert other == "  row 11: dog, said: cat, 62.5 %"


def test_a_network_can_be_less_sure_than_right(tmp_path: Path) -> None:
    rows, probabilities = np.arange(4), np.tile(np.float32([0.625, 0.375]), (4, 1))
    Predictions(probabilities, rows, np.array([0, 0, 0, 1]), ["a", "b"], "split").save(tmp_path / PROBABILITIES)
    told = explain.draw_reliability(tmp_path, 15, tmp_path / "calibration.png")
    assert "confidence 62.50 %, accuracy 75.00 %: underconfident by 12.50 points" in told


def test_sheets_of_mistakes_and_calibration(call: Callable, run: Path, tmp_path: Path) -> None:
    done = call(explain, "mistakes", run, tmp_path / "mistakes.png", "--count", 10)
    assert f"10 of {(~Predictions.load(run).right()).sum()} mistakes among 300" in done.out
    assert len(re.findall(r"^  row \d+: digit \d, said: digit \d, [\d.]+ %$", done.out, re.MULTILINE)) == 10
    assert len(np.unique(np.asarray(Image.open(tmp_path / "mistakes.png")))) > 100
    done = call(explain, "calibration", run, tmp_path / "calibration.png")
    assert "overconfident by" in done.out
    assert Image.open(tmp_path / "calibration.png").width == 550
    for command in ("mistakes", "calibration"):
        assert "make it, or write x.png elsewhere" in call(explain, command, run, tmp_path / "none/x.png").err


@pytest.mark.parametrize(
    "command", [["mistakes", "r", "x.png", "--coun", "3"], ["gradcam", "r", "x.png", "a.png", "--lay", "net.0"]]
)
def test_flags_are_written_in_full(call: Callable, command: list[str]) -> None:
    assert "unrecognized arguments: --" in call(explain, *command).err


def test_from_a_trained_run(call: Callable, shards: Path) -> None:
    config = str(PROJECT / "experiments/quickstart_digits.yaml")
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.accelerator", "cpu"]
    main.run_command(["fit", "--config", config, "--name", "a", "--data.root", str(shards), *short])
    run = "runs/quickstart_digits/a"
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Path("pictures").mkdir()
    Image.fromarray(noise).save("pictures/a.png")
    Path("pictures/broken.png").touch()
    done = call(explain, "gradcam", run, "cam.png", "pictures", "--class", "3")
    assert done.out == "evidence in net.1 for 1 of 2 pictures: cam.png\n"
    assert done.status == 1
    assert "broken.png cannot be read" in done.err
    assert Image.open("cam.png").width == 320  # the picture, and the overlay beside it
    assert call(feature_maps, run, "pictures/a.png", "maps.png", "--channels", "5").status == 0
    assert call(feature_maps, run, "--filters", "filters.png").status == 0
    for file in ("maps.png", "filters.png"):
        assert len(np.unique(np.asarray(Image.open(file)))) > 20
    for args, words in (
        ((explain, "gradcam", run, "x.png", "pictures", "--class", "cat"), "there is no class cat"),
        ((explain, "gradcam", run, "x.png", "pictures", "--layer", "net.conv"), "no layer 'net.conv'; near are"),
        ((explain, "mistakes", run, "x.png"), "main.py test --run"),
        ((feature_maps, run, "x.png"), "either a picture or --filters"),
        ((feature_maps, run, "pictures/a.png", "nowhere/x.png"), "the folder nowhere is not there"),
        ((feature_maps, run, "pictures/broken.png", "x.png"), "broken.png cannot be read"),
    ):
        done = call(*args)
        assert done.status in (1, 2), args
        assert words in done.err
