"""The commands of DeepDream: what they write, the same again, walks, and what they refuse."""

import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import main
from lightning_modules import MiniVGGNet
from synthesis import backbone, result
from synthesis.dream import Dream as Dreamer
from synthesis.dream import DreamSettings
from synthesis.step import Step
from synthesis.walk import draw, space_of
from tools import dream as tool

PROJECT = Path(main.__file__).parent
Dream = Callable[..., Path]


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
def dream(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Dream:
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


def test_what_a_result_has(dream: Dream, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize("ends", [KeyboardInterrupt(), OSError("no space left on device")])
def test_what_was_made_until_an_end_stays(
    dream: Dream, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ends: BaseException
) -> None:
    whole = dream("whole", "--save_every", "1")
    steps = Dreamer.__iter__

    def until_the_fourth(self: Dreamer) -> Iterator[Step]:
        yield from islice(steps(self), 4)
        raise ends

    monkeypatch.setattr(Dreamer, "__iter__", until_the_fourth)
    with pytest.raises(SystemExit):
        dream("out")
    assert [line["iteration"] for line in json.loads(Path("out/losses.json").read_text())] == [1, 2, 3, 4]
    assert Path("out/picture.png").read_bytes() == (whole / "iterations/00004.png").read_bytes()
    assert "ended after iteration 4: out/picture.png" in capsys.readouterr().err


def test_no_picture_of_an_iteration_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Step] = []
    monkeypatch.setattr(result, "_write_losses", lambda folder, records: kept.extend(records))
    steps = (Step(number, 1, {"loss": 1.0}, torch.zeros(1, 3, 9, 9)) for number in range(3))
    result.write_result(tmp_path, DreamSettings("a.png", {}), steps, 3, 0)
    assert [each.pixels.untyped_storage().nbytes() for each in kept] == [0, 0, 0]


def test_a_walk_begins_only_if_every_draw_can_be_made(dream: Dream) -> None:
    with pytest.raises(SystemExit) as ended:
        dream("out", "--walk", "6", "--ranges", "[octaves=5:11]")
    space = space_of(["octaves=5:11"], {"octaves": 2})
    impossible = [n for n in range(1, 7) if draw({"octaves": 2}, space, 42, n)[0]["octaves"] > 7]  # of 4 pixels
    assert 0 < len(impossible) < 6
    listed = ", ".join(map(str, impossible))
    assert f"{len(impossible)} of 6 draws cannot be made ({listed}); narrow --ranges" in str(ended.value)
    assert not Path("out").exists()


def test_settings_make_the_same_bytes_again(dream: Dream) -> None:
    first = dream("first", "--octaves", "3", "--seed_everything", "7")
    assert yaml.safe_load((first / "settings.yaml").read_text())["octaves"] == 3
    again = dream("again", config="first/settings.yaml")
    for name in ("picture.png", "losses.json", "losses.png", "settings.yaml"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    other = dream("other", "--seed_everything", "8", config="first/settings.yaml")
    assert (first / "picture.png").read_bytes() != (other / "picture.png").read_bytes()


def test_random_weights_follow_from_the_seed(dream: Dream) -> None:
    flags = ["--network", "{architecture: squeezenet1_1, checkpoint: null}", "--layers", "{net.features.1: 1.0}"]
    pictures = [
        dream(out, *flags, "--jitter", "0", "--seed_everything", seed) / "picture.png"
        for out, seed in zip("abc", "778", strict=True)
    ]
    first, again, other = (path.read_bytes() for path in pictures)
    assert first == again != other


def test_a_longer_side_is_brought_to_a_size(dream: Dream) -> None:
    assert Image.open(dream("small", "--size", "45") / "picture.png").size == (45, 33)


def test_a_walk_has_settings_of_each_picture_and_a_sheet(dream: Dream) -> None:
    out = dream("walk", "--walk", "2")
    settings = [yaml.safe_load((out / f"0{number}/settings.yaml").read_text()) for number in (1, 2)]
    assert settings[0]["step"] != settings[1]["step"]
    assert all(0.01 <= each["step"] <= 0.1 and each["octaves"] in (1, 2, 3) and each["layers"] for each in settings)
    assert Image.open(out / "sheet.png").size[0] > 200
    again = dream("again", config="walk/02/settings.yaml")
    assert (again / "picture.png").read_bytes() == (out / "02/picture.png").read_bytes()


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
    without = {"step": 0.1, "layers": {}}  # as style transfer without layers of the content
    assert draw(without, space_of(["step=1,2"], without), 0, 0)[0]["layers"] == {}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--octavs", "3"], "there is no setting octavs; did you mean octaves"),
        (["--octaves", "many"], "octaves: Expected a <class 'int'>"),
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
        (["--walk", "1", "--ranges", "[octaves=8:9]"], "1 of 1 draws cannot be made (1); narrow --ranges"),
        (["--walk", "-1"], "at least 0"),
        (["--out", "full"], "full is not an empty folder"),
        (["--network.checkpoint", "text.png"], "text.png is damaged, or is not a checkpoint"),
        (["--network", "{architecture: vgg91, checkpoint: null}"], "no classifier 'vgg91'"),
    ],
)
def test_what_cannot_be_is_said_in_few_lines(dream: Dream, flags: list[str], told: str) -> None:
    Path("full").mkdir()
    Path("full/a").touch()
    with pytest.raises(SystemExit) as ended:
        dream("out", *flags)
    assert told in str(ended.value)
    assert str(ended.value).startswith("error: ")
    assert len(str(ended.value).splitlines()) <= 5
    assert not Path("out/picture.png").exists()


def test_a_typo_in_the_file_is_refused(dream: Dream) -> None:
    text = Path("settings.yaml").read_text()
    Path("typo.yaml").write_text(text + "jiter: 3\n")
    with pytest.raises(SystemExit, match="there is no setting jiter; did you mean jitter"):
        dream("out", config="typo.yaml")
    Path("inner.yaml").write_text(text.replace("checkpoint:", "checkpint:"))
    with pytest.raises(SystemExit, match="there is no setting checkpint; did you mean network.checkpoint"):
        dream("out", config="inner.yaml")


def test_too_little_memory_says_what_to_do(dream: Dream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "free_memory", lambda: 1000)
    with pytest.raises(SystemExit, match=r"memory is not enough: \d+x\d+ pixels .*; give --tile 512"):
        dream("out")

    def fail(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(backbone, "free_memory", lambda: 10**12)
    monkeypatch.setattr(tool.Dream, "gradient", fail)
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
