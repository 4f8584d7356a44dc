"""The commands of DeepDream: what they write, the same again, walks, and what they refuse."""

import json
import re
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageCms

import main
from lightning_modules import MiniVGGNet
from synthesis import backbone, networks
from synthesis.dream import Dream, DreamSettings
from synthesis.walk import draw, space_of
from tools import dream as tool

PROJECT = Path(main.__file__).parent
Command = Callable[..., Path]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A MiniVGGNet that never trained, saved as a fit saves it."""
    torch.manual_seed(1)
    network = MiniVGGNet(10, 32)
    model = {"class_path": "lightning_modules.MiniVGGNet", "init_args": {"num_classes": 10, "image_size": 32}}
    shift, scale = torch.full((1, 3, 32, 32), 120.0), torch.full((1, 3, 1, 1), 0.02)
    sizes = {"classes": list("abcdefghij"), "stored_size": 32, "input_size": 32}
    preprocessing = {**sizes, "shift": shift, "scale": scale, "packed_set": "", "normalization": "mean_image"}
    saved = {"config": yaml.safe_dump({"model": model}), "preprocessing": preprocessing}
    torch.save({**saved, "state_dict": network.state_dict()}, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


@pytest.fixture
def dream(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in a folder with a picture of 60x44; the folder that it writes."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (44, 60, 3), np.uint8)
    Image.fromarray(pixels).save("a.png")
    Path("text.png").write_text("no picture")
    settings = {
        "layers": {"net.0.1": 1.0},
        "network": {"checkpoint": str(checkpoint)},
        "octaves": 2,
        "iterations": 3,
        "step": 0.05,
        "jitter": 4,
        "ranges": ["step=log:0.01:0.1", "layers.net.0.1=0,1,2", "layers.net.0.4=0:3", "octaves=1:3", "tile=0,128"],
    }
    Path("settings.yaml").write_text(yaml.safe_dump(settings))

    def call(out: str, *flags: str, config: str = "settings.yaml", picture: str = "a.png") -> Path:
        command = ["dream.py", "--config", config, "--picture", picture, "--out", out, "--device", "cpu", *flags]
        monkeypatch.setattr(sys, "argv", command)
        tool.main()
        return Path(out)

    return call


def test_what_a_result_has(dream: Command, capsys: pytest.CaptureFixture[str]) -> None:
    out = dream("out", "--save_every", "2")
    losses = json.loads((out / "losses.json").read_text())
    assert [(line["iteration"], line["octave"]) for line in losses] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert all(line["loss"] > 0 for line in losses)
    assert sorted(path.name for path in (out / "iterations").iterdir()) == ["00002.png", "00004.png", "00006.png"]
    assert Image.open(out / "picture.png").size == (60, 44)
    assert (out / "iterations/00006.png").read_bytes() == (out / "picture.png").read_bytes()
    assert not np.array_equal(np.asarray(Image.open(out / "picture.png")), np.asarray(Image.open("a.png")))
    assert Image.open(out / "losses.png").size == (600, 360)
    assert "s an iteration (median of 3" in capsys.readouterr().out


def test_settings_make_the_same_bytes_again(dream: Command) -> None:
    first = dream("first", "--octaves", "3", "--seed_everything", "7")
    assert yaml.safe_load((first / "settings.yaml").read_text())["octaves"] == 3
    again = dream("again", config="first/settings.yaml")
    for name in ("picture.png", "losses.json", "losses.png", "settings.yaml"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    other = dream("other", "--seed_everything", "8", config="first/settings.yaml")
    assert (first / "picture.png").read_bytes() != (other / "picture.png").read_bytes()


def test_random_weights_follow_from_the_seed(dream: Command) -> None:
    flags = ["--network", "{architecture: squeezenet1_1, checkpoint: null}", "--layers", "{net.features.1: 1.0}"]
    pictures = [
        dream(out, *flags, "--jitter", "0", "--seed_everything", seed) / "picture.png"
        for out, seed in zip("abc", "778", strict=True)
    ]
    first, again, other = (path.read_bytes() for path in pictures)
    assert first == again != other
    flags = ["--network.architecture", "squeezenet1_1", "--network.checkpoint", "null", *flags[2:]]  # the file has one
    assert (dream("d", *flags, "--jitter", "0", "--seed_everything", "7") / "picture.png").read_bytes() == first


def test_pictures_have_the_profile_of_the_original_if_it_fits(dream: Command) -> None:
    rgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey, cmyk = (rgb[:16] + space + rgb[20:] for space in (b"GRAY", b"CMYK"))  # as ICC.1, 7.2, has it
    picture = Image.open("a.png")
    picture.save("rgb.png", icc_profile=rgb)
    picture.convert("RGBA").save("alpha.png", icc_profile=rgb)
    picture.convert("L").save("grey.png", icc_profile=grey)
    picture.convert("CMYK").save("cmyk.jpg", icc_profile=cmyk)
    for file, expected in (("rgb.png", rgb), ("alpha.png", rgb), ("grey.png", None), ("cmyk.jpg", None)):
        out = dream(Path(file).stem, "--octaves", "1", "--iterations", "1", "--save_every", "1", picture=file)
        for name in ("picture.png", "iterations/00001.png"):
            assert Image.open(out / name).info.get("icc_profile") == expected, file


def test_a_longer_side_is_brought_to_a_size(dream: Command) -> None:
    assert Image.open(dream("small", "--size", "45") / "picture.png").size == (45, 33)


def test_a_walk_has_settings_of_each_picture_and_a_sheet(dream: Command) -> None:
    out = dream("walk", "--walk", "2")
    settings = [yaml.safe_load((out / f"0{number}/settings.yaml").read_text()) for number in (1, 2)]
    assert settings[0]["step"] != settings[1]["step"]
    assert all(0.01 <= each["step"] <= 0.1 and each["octaves"] in (1, 2, 3) and each["layers"] for each in settings)
    assert Image.open(out / "sheet.png").size[0] > 200
    again = dream("again", config="walk/02/settings.yaml")
    assert (again / "picture.png").read_bytes() == (out / "02/picture.png").read_bytes()


def test_a_walk_is_refused_before_the_first_draw_where_some_cannot_be_made(dream: Command) -> None:
    settings = {"octaves": 2, "layers": {"net.0.1": 1.0}}
    space = space_of(["octaves=2,9"], settings)
    impossible = [n for n in range(1, 7) if draw(settings, space, 42, n)[0]["octaves"] == 9]
    assert 1 < len(impossible) < 6
    with pytest.raises(SystemExit) as ended:
        dream("walk", "--walk", "6", "--ranges", '["octaves=2,9"]')
    told = str(ended.value)
    assert f"of 6 draws these cannot be made, so none is: {', '.join(map(str, impossible))}; narrow --ranges" in told
    assert f"draw {impossible[0]}: 4x2 pixels" in told
    assert not Path("walk").exists()


def test_the_walk_of_the_experiment_says_at_once_that_a_picture_is_too_small(dream: Command) -> None:
    experiment = str(PROJECT / "experiments/deepdream.yaml")
    Image.new("RGB", (320, 240)).save("small.png")
    with pytest.raises(SystemExit, match=r"cannot be made, so none is: 4, .*\n  draw 4: .*larger --size"):
        dream("walk", "--walk", "12", "--network.weights", "null", config=experiment, picture="small.png")
    assert not Path("walk").exists()


def test_the_experiment_says_which_pictures_are_large_enough_for_its_walk() -> None:
    experiment = PROJECT / "experiments/deepdream.yaml"
    (pixels,) = re.findall(r"shorter side of (\d+) pixels", experiment.read_text())
    settings = yaml.safe_load(experiment.read_text())
    ranges = dict(text.split("=") for text in settings["ranges"])
    octaves, scale = (float(ranges[key].split(":")[1]) for key in ("octaves", "octave_scale"))
    layers = {key.removeprefix("layers."): 1.0 for key in ranges if key.startswith("layers.")}
    hardest = DreamSettings("", layers, octaves=int(octaves), octave_scale=scale)
    eyes = networks.backbone_of(networks.NetworkSettings("inception_v3"))
    Dream(eyes, torch.zeros(1, 3, int(pixels), 1000), hardest)
    with pytest.raises(ValueError, match="larger --size"):
        Dream(eyes, torch.zeros(1, 3, int(pixels) - 1, 1000), hardest)


@pytest.mark.parametrize(("error", "code"), [(RuntimeError("broken"), "error: broken"), (KeyboardInterrupt(), 130)])
def test_a_walk_that_ends_early_leaves_a_sheet_of_what_was_made(
    dream: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int | str,
) -> None:
    calls, gradient = count(1), Dream.gradient

    def ends_in_the_second_draw(*arguments: object) -> object:
        if next(calls) == 5:
            raise error
        return gradient(*arguments)

    monkeypatch.setattr(Dream, "gradient", ends_in_the_second_draw)
    with pytest.raises(SystemExit) as ended:
        dream("walk", "--walk", "3", "--octaves", "1", "--ranges", "[step=0.1:0.2]")
    assert ended.value.code == code
    assert sorted(path.name for path in Path("walk").iterdir()) == ["01", "02", "sheet.png"]
    assert Path("walk/02/picture.png").is_file()
    assert "sheet.png: 1 of 3 draws; one of them again" in capsys.readouterr().out


def test_the_draws_of_a_walk_share_a_network(dream: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[networks.NetworkSettings] = []
    backbone_of = networks.backbone_of
    monkeypatch.setattr(networks, "backbone_of", lambda settings: built.append(settings) or backbone_of(settings))
    dream("walk", "--walk", "3", "--ranges", "[step=0.1:0.2]")
    assert len(built) == 1


def test_draws_lie_in_their_ranges() -> None:
    ranges = ["step=log:0.001:1", "octaves=2:4", "layers.a=0,1", "layers.b=0.0:2.0", "max_loss=null,5"]
    settings = {"step": 0.1, "octaves": 3, "layers": {"a": 1.0}, "max_loss": 10.0}
    drawn, again, other = (
        [draw(settings, space_of(ranges, settings), seed, number)[0] for number in range(300)] for seed in (0, 0, 1)
    )
    assert drawn == again != other
    assert settings == {"step": 0.1, "octaves": 3, "layers": {"a": 1.0}, "max_loss": 10.0}
    steps = np.array([each["step"] for each in drawn])
    assert 0.001 <= steps.min() < 0.002 < 0.5 < steps.max() <= 1
    assert np.median(steps) == pytest.approx(10**-1.5, rel=0.5)  # as many in each decade
    assert {each["octaves"] for each in drawn} == {2, 3, 4}
    assert {each["max_loss"] for each in drawn} == {None, 5}
    assert all(each["layers"] and 0 not in each["layers"].values() for each in drawn)
    assert {tuple(sorted(each["layers"])) for each in drawn} == {("a", "b"), ("b",)}
    narrow = space_of(["step=0.12345:0.12349", "octaves=log:1001:1004"], settings)  # three digits lie outside
    found = [draw(settings, narrow, 0, number)[0] for number in range(50)]
    assert all(0.12345 <= each["step"] <= 0.12349 and 1001 <= each["octaves"] <= 1004 for each in found)
    without = {"step": 0.1, "layers": {}}  # as style transfer without layers of the content
    assert draw(without, space_of(["step=1,2"], without), 0, 0)[0]["layers"] == {}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--octavs", "3"], "there is no setting octavs; did you mean octaves"),
        (["--octaves", "many"], "octaves: Expected a <class 'int'>"),
        (["--layers", "net.0.4"], "write it like '{NAME: 1.0}'"),
        (["--ranges", "step=1:2"], "write it like '[A, B]'"),
        (["--layers", "{net.0.9: 1.0}"], "no layer 'net.0.9'; near are net.0."),
        (
            ["--layers", "{net.4: 1.0}"],
            "up to the last of these layers, net.4; take a larger picture, or layers before",
        ),
        (["--octaves", "9"], "too few for the layer net.0.1"),
        (["--tile", "100"], "multiple of 32"),
        (["--picture", "text.png"], "text.png cannot be read: it is no picture"),
        (["--picture", "none.png"], "none.png cannot be read: No such file"),
        (["--size", "0"], "--size and --style_size must be at least 1"),
        (["--walk", "2", "--ranges", "[]"], "the settings have none"),
        (["--walk", "2", "--ranges", "[stp=1:2]"], "ranges: stp is no setting with values; near are step"),
        (["--walk", "2", "--ranges", '["octaves=a,b"]'], "octaves: Expected a <class 'int'>"),
        (["--walk", "1", "--ranges", "[octaves=8:9]"], "draw 1: "),
        (["--walk", "-1"], "at least 0"),
        (["--walk", "2049"], "a sheet of 2049 pictures is too large; at most 2048 fit"),
        (["--out", "full"], "full is not an empty folder"),
        (["--network.architecture", "vgg19"], "--network.checkpoint takes the place of --network.architecture; "),
        (["--network.weights=DEFAULT"], "--network.checkpoint takes the place of --network.weights; "),
        (["--network.checkpoint", "text.png"], "text.png is damaged, or is not a checkpoint"),
        (["--network", "{architecture: vgg91, checkpoint: null}"], "no classifier 'vgg91'"),
    ],
)
def test_what_cannot_be_is_said_in_few_lines(dream: Command, flags: list[str], told: str) -> None:
    Path("full").mkdir()
    Path("full/a").touch()
    with pytest.raises(SystemExit) as ended:
        dream("out", *flags)
    assert told in str(ended.value)
    assert str(ended.value).startswith("error: ")
    assert len(str(ended.value).splitlines()) <= 5
    assert not Path("out/picture.png").exists()


def test_a_mistake_in_the_file_is_refused(dream: Command) -> None:
    text = Path("settings.yaml").read_text()
    Path("typo.yaml").write_text(text + "jiter: 3\n")
    with pytest.raises(SystemExit, match="there is no setting jiter; did you mean jitter"):
        dream("out", config="typo.yaml")
    Path("inner.yaml").write_text(text.replace("checkpoint:", "checkpint:"))
    with pytest.raises(SystemExit, match="there is no setting checkpint; did you mean network.checkpoint"):
        dream("out", config="inner.yaml")
    Path("twice.yaml").write_text(text + "octaves: 3\n")
    with pytest.raises(SystemExit, match="twice.yaml has octaves in lines .*; leave one of them out"):
        dream("out", config="twice.yaml")


def test_too_little_memory_says_what_to_do(dream: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "free_memory", lambda: 1000)
    with pytest.raises(SystemExit, match=r"memory is not enough: \d+x\d+ pixels .*; give --tile 512"):
        dream("out")

    def fail(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(backbone, "free_memory", lambda: 10**12)
    monkeypatch.setattr(Dream, "gradient", fail)
    with pytest.raises(SystemExit, match="memory is not enough for 9 bytes more; give --tile 512, or a smaller one"):
        dream("other")


def test_the_experiment_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[DreamSettings] = []
    monkeypatch.setattr(tool, "steps_of", lambda settings, device: seen.append(settings) or sys.exit("read"))
    config = ["--config", str(PROJECT / "experiments/deepdream.yaml"), "--picture", "a.png", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["dream.py", *config, "--octaves", "2"])
    with pytest.raises(SystemExit, match="read"):
        tool.main()
    (settings,) = seen
    assert settings.layers == {"net.Mixed_5d": 2.0, "net.Mixed_6a": 0.5}
    assert (settings.octaves, settings.octave_scale, settings.iterations) == (2, 1.4, 50)
    assert (settings.step, settings.max_loss, settings.network.architecture) == (0.001, 10, "inception_v3")
