"""The commands of style transfer: what they write, the same again, walks, and what they refuse."""

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageCms

import main
from synthesis import backbone
from synthesis.style import StyleSettings
from tools import stylize as tool

PROJECT = Path(main.__file__).parent
Stylize = Callable[..., Path]


@pytest.fixture
def stylize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stylize:
    """Runs the command in a folder with pictures of 40x30 and 20x50; the folder that it writes."""
    monkeypatch.chdir(tmp_path)
    for name, shape in (("content", (30, 40, 3)), ("style", (50, 20, 3))):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).save(f"{name}.png")
    settings = {
        "content": "content.png",
        "style": "style.png",
        "content_layers": {"net.features.4.squeeze": 1.0},
        "style_layers": {"net.features.1": 0.5, "net.features.3": 0.5},
        "network": {"architecture": "squeezenet1_1"},
        "style_weight": 1e5,
        "variation_weight": 1e-4,
        "iterations": 2,
        "ranges": ["style_weight=log:1e3:1e6", "style_layers.net.features.3=0,0.5,1", "keep_colours=false,true"],
    }
    Path("settings.yaml").write_text(yaml.safe_dump(settings))

    def call(out: str, *flags: str, config: str = "settings.yaml") -> Path:
        monkeypatch.setattr(sys, "argv", ["stylize.py", "--config", config, "--out", out, "--device", "cpu", *flags])
        tool.main()
        return Path(out)

    return call


def test_what_a_result_has(stylize: Stylize) -> None:
    out = stylize("out", "--save_every", "1")
    losses = json.loads((out / "losses.json").read_text())
    assert [line["iteration"] for line in losses] == [0, 1, 2]
    assert all(after["loss"] < before["loss"] for before, after in pairwise(losses))
    for line in losses:
        assert line["loss"] == pytest.approx(line["content"] + line["style"] + line["variation"])
    names = [path.name for path in sorted((out / "iterations").iterdir())]
    assert names == ["00000.png", "00001.png", "00002.png"]
    assert (out / "iterations/00000.png").read_bytes() != (out / "picture.png").read_bytes()
    assert np.array_equal(np.asarray(Image.open(out / "iterations/00000.png")), np.asarray(Image.open("content.png")))
    assert Image.open(out / "picture.png").size == (40, 30)


def test_the_result_has_the_profile_of_the_content(stylize: Stylize) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.open("content.png").save("content.png", icc_profile=profile)
    assert Image.open(stylize("out", "--iterations", "1") / "picture.png").info["icc_profile"] == profile


def test_the_experiment_keeps_every_iteration(stylize: Stylize) -> None:
    text = (PROJECT / "experiments/style_transfer.yaml").read_text()
    small = yaml.safe_load(Path("settings.yaml").read_text())
    Path("experiment.yaml").write_text(yaml.safe_dump({**yaml.safe_load(text), **small}))
    out = stylize("out", config="experiment.yaml")
    names = [path.name for path in sorted((out / "iterations").iterdir())]
    assert names == ["00000.png", "00001.png", "00002.png"]


def test_settings_make_the_same_bytes_again(stylize: Stylize) -> None:
    first = stylize("first", "--start", "noise", "--size", "33", "--keep_colours", "true")
    again = stylize("again", config="first/settings.yaml")
    for name in ("picture.png", "losses.json", "losses.png", "settings.yaml"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    assert Image.open(first / "picture.png").size == (33, 25)


def test_a_walk_has_settings_of_each_picture_and_a_sheet(stylize: Stylize) -> None:
    out = stylize("walk", "--walk", "2", "--iterations", "1")
    settings = [yaml.safe_load((out / f"0{number}/settings.yaml").read_text()) for number in (1, 2)]
    assert settings[0]["style_weight"] != settings[1]["style_weight"]
    assert (out / "sheet.png").is_file()
    again = stylize("again", config="walk/02/settings.yaml")
    assert (again / "picture.png").read_bytes() == (out / "02/picture.png").read_bytes()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--style_wieght", "3"], "there is no setting style_wieght; did you mean style_weight"),
        (["--start", "nothing"], "start: Expected"),
        (["--style", "settings.yaml"], "settings.yaml cannot be read: it is no picture"),
        (["--style_layers", "{net.features.99: 1.0}"], "no layer 'net.features.99'; near are net.features."),
        (["--style_size", "2"], "a picture of 1x2 pixels does not pass the network"),
        (["--variation_weight", "-1"], "must be at least 0"),
    ],
)
def test_what_cannot_be_is_said_in_few_lines(stylize: Stylize, flags: list[str], told: str) -> None:
    with pytest.raises(SystemExit) as ended:
        stylize("out", *flags)
    assert told in str(ended.value)
    assert len(str(ended.value).splitlines()) <= 5


def test_too_little_memory_says_what_to_do(stylize: Stylize, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "free_memory", lambda: 1000)
    with pytest.raises(SystemExit, match=r"memory is not enough: 40x30 pixels .*; take a smaller --size"):
        stylize("out")


def test_the_experiment_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[StyleSettings] = []
    monkeypatch.setattr(tool, "steps_of", lambda settings, device: seen.append(settings) or sys.exit("read"))
    config = ["--config", str(PROJECT / "experiments/style_transfer.yaml"), "--content", "a.png", "--style", "b.png"]
    monkeypatch.setattr(sys, "argv", ["stylize.py", *config, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="read"):
        tool.main()
    (settings,) = seen
    assert settings.style_layers == {f"net.features.{index}": 0.2 for index in (1, 6, 11, 20, 29)}
    assert settings.content_layers == {"net.features.22": 1.0}
    assert (settings.content_weight, settings.style_weight, settings.variation_weight) == (1, 100, 10)
    assert (settings.iterations, settings.gram_scale, settings.network.architecture) == (50, "picture", "vgg19")
