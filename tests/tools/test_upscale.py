"""Pictures enlarged: no seams, full size, colours and alpha kept, and figures that follow their formulas."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageDraw
from torch import nn
from torch.nn import functional as F

import main
from datamodules import PhotographPairs
from lightning_modules import SRCNN
from tools import upscale
from upscaler import Upscaler

PROJECT = Path(main.__file__).parent
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
MODES = ("L", "LA", "RGB", "RGBA")


def photograph(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth noise."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, len(mode)), np.uint8)
    bands = [Image.fromarray(values[..., band]).resize((width, height)) for band in range(len(mode))]
    return Image.merge(mode, bands) if len(bands) > 1 else bands[0]


def upscaler(colour: str = "luminance", factor: int = 2, tile: int = 256, network: SRCNN | None = None) -> Upscaler:
    """One with random weights, the same each time."""
    torch.manual_seed(0)
    network = network or SRCNN(1 if colour == "luminance" else 3)
    return Upscaler(network.eval(), {"upscale_factor": factor, "colour": colour, "packed_set": "none"}, tile)


def identity() -> SRCNN:
    """Of luminance: gives its input's middle."""
    network = SRCNN(1)
    convolutions = [module for module in network.net if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        nn.init.zeros_(module.weight)
        module.weight.data[0, 0, module.kernel_size[0] // 2, module.kernel_size[0] // 2] = 1
    return network


def test_no_picture_is_replaced_by_the_enlargement_of_another(tmp_path: Path) -> None:
    for name in ("a.png", "a-x2.png", "b.png"):
        photograph(20, 20).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"a.png would replace the picture .*a-x2.png; choose another --out"):
        upscale.names_of([str(tmp_path)], tmp_path, 2)
    assert len(upscale.names_of([str(tmp_path)], tmp_path / "out", 2)) == 3
    (tmp_path / "a-x2.png").rename(tmp_path / "b-x2-bicubic.png")
    with pytest.raises(ValueError, match="b.png would replace the picture"):
        upscale.names_of([str(tmp_path)], tmp_path, 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tested run on luminance, x2, on photographs in the folder ``photographs`` beside ``runs``."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "photographs").mkdir()
    for number in range(10):
        photograph(60, 50, seed=number).save(folder / f"photographs/{number}.png")
    config = ["--config", str(PROJECT / "experiments/srcnn_modern.yaml"), "--data.source", str(folder / "photographs")]
    short = ["--data.root", str(folder / "data"), "--trainer.max_epochs", "1", "--name", "a", "--then", "test"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main.run_command(["fit", *config, *short, "--data.test_fraction", "0.2", *QUIET])
    return folder / "runs/srcnn_modern/a"


@pytest.mark.parametrize("colour", ["luminance", "rgb"])
@pytest.mark.parametrize("mode", MODES)
def test_tiles_leave_no_seam(colour: str, mode: str) -> None:
    image = photograph(47, 33, mode)
    whole, _ = upscaler(colour, tile=1000).enlarge(image)
    for tile in (7, 31) if mode == "L" else (31,):
        np.testing.assert_array_equal(np.asarray(upscaler(colour, tile=tile).enlarge(image)[0]), np.asarray(whole))


def test_colours_are_what_the_network_gives_over_reflected_edges() -> None:
    image = photograph(31, 24)
    sharper, interpolated = upscaler("rgb", factor=3).enlarge(image)
    assert sharper.size == interpolated.size == (93, 72)
    np.testing.assert_array_equal(
        np.asarray(interpolated), np.asarray(image.resize((93, 72), Image.Resampling.BICUBIC))
    )
    planes = torch.tensor(np.asarray(interpolated)).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = 255 * upscaler("rgb").network(F.pad(planes, (6,) * 4, mode="reflect") / 255)
    expected = expected.clamp(0, 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(sharper) - expected).max() <= 0.501


def test_a_network_of_luminance_sees_the_luminance() -> None:
    sharper, interpolated = upscaler().enlarge(photograph(31, 24))
    colours = torch.tensor(np.asarray(interpolated)).double()
    luma = (0.299 * colours[..., 0] + 0.587 * colours[..., 1] + 0.114 * colours[..., 2])[None, None]  # BT.601
    with torch.no_grad():
        network = upscaler().network.double()
        difference = 255 * network(F.pad(luma, (6,) * 4, mode="reflect") / 255) - luma
    expected = (colours + difference[0].permute(1, 2, 0)).clamp(0, 255).numpy()
    assert np.abs(np.asarray(sharper) - expected).max() <= 0.501


def test_a_network_of_luminance_leaves_the_colours() -> None:
    network = identity()
    network.net[4].bias.data[:] = 20 / 255  # all becomes brighter
    image = photograph(20, 20).point(lambda value: 60 + value // 2)
    sharper, interpolated = upscaler(network=network).enlarge(image)
    np.testing.assert_array_equal(np.asarray(sharper), np.asarray(interpolated) + 20)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 40), (33, 20)])
@pytest.mark.parametrize("mode", MODES)
def test_full_size_and_mode_and_a_network_that_changes_nothing(mode: str, size: tuple[int, int]) -> None:
    image = photograph(*size, mode)
    sharper, interpolated = upscaler(network=identity(), tile=16).enlarge(image)
    assert sharper.mode == interpolated.mode == mode
    assert sharper.size == (2 * size[0], 2 * size[1])
    np.testing.assert_array_equal(np.asarray(sharper), np.asarray(interpolated))


def test_alpha_is_interpolated() -> None:
    image = photograph(20, 30, "RGBA")
    sharper, _ = upscaler().enlarge(image)
    alpha = image.getchannel("A").resize((40, 60), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(sharper.getchannel("A")), np.asarray(alpha))


@pytest.mark.parametrize(("mode", "white"), [("LA", (255, 255)), ("RGBA", (255, 255, 255, 255))])
@pytest.mark.parametrize("colour", ["luminance", "rgb"])
def test_hidden_colours_do_not_show_at_edges(mode: str, white: tuple[int, ...], colour: str) -> None:
    image = Image.new(mode, (24, 20))  # transparent black
    image.paste(white, (6, 5, 18, 15))
    sharper, interpolated = upscaler(colour).enlarge(image)
    on_white = Image.alpha_composite(Image.new("RGBA", interpolated.size, "white"), interpolated.convert("RGBA"))
    assert np.asarray(on_white).min() >= 254
    flat, _ = upscaler(colour).enlarge(Image.new(mode[:-1], (24, 20), white[:-1]))  # no edge of colours at all
    seen = np.asarray(sharper.getchannel("A")) > 0
    np.testing.assert_array_equal(np.asarray(sharper.convert(mode[:-1]))[seen], np.asarray(flat)[seen])


def test_alpha_weighs_the_colours_that_are_interpolated() -> None:
    image = photograph(20, 30, "RGBA")
    _, interpolated = upscaler().enlarge(image)
    *colours, alpha = (torch.tensor(np.asarray(band)).double() for band in image.split())
    planes = torch.stack([*(colour * alpha for colour in colours), alpha])[None]
    *sums, total = F.interpolate(planes, scale_factor=2, mode="bicubic", antialias=True)[0]  # as Pillow has it
    seen = total.numpy() >= 1
    for band, values in zip(interpolated.split(), sums, strict=False):
        expected = (values / total).clamp(0, 255).numpy()
        assert np.abs(np.asarray(band) - expected)[seen].max() <= 0.501


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_that_hides_nothing_changes_nothing(mode: str) -> None:
    image = Image.new(mode, (20, 30), "white")
    ImageDraw.Draw(image).text((2, 2), "edges", fill="black")
    image.putalpha(255)
    for opaque, plain in zip(upscaler().enlarge(image), upscaler().enlarge(image.convert(mode[:-1])), strict=True):
        np.testing.assert_array_equal(np.asarray(opaque), np.asarray(plain.convert(mode)))


@pytest.mark.parametrize("faint", [0, 1, 30])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_edges_of_alpha_alone_leave_a_colour_as_it_is(mode: str, faint: int) -> None:
    colour = (100, 150, 200)[: len(mode) - 1]
    image = Image.new(mode, (24, 20), (*colour, faint))
    image.paste((*colour, 255), (6, 5, 18, 15))
    _, interpolated = upscaler().enlarge(image)
    seen = np.asarray(interpolated.getchannel("A")) > 0
    assert (np.asarray(interpolated)[seen][:, :-1] == colour).all()


def test_a_picture_that_is_all_transparent_stays_so() -> None:
    for enlargement in upscaler().enlarge(Image.new("RGBA", (9, 7), (200, 100, 50, 0))):
        assert enlargement.size == (18, 14)
        assert not np.asarray(enlargement.getchannel("A")).any()


def test_files_and_folders_become_two_files_each(run: Path, tmp_path: Path, call: Callable) -> None:
    given = tmp_path / "given"
    (given / "below").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by a quarter
    photograph(40, 30).save(given / "turned.jpg", exif=exif)
    photograph(20, 30, "RGBA").quantize().save(given / "below/palette.png")
    photograph(12, 10, "L").save(tmp_path / "grey.png")
    assert call(upscale, run, given, tmp_path / "grey.png", "--out", tmp_path / "out", "--tile", 50)[0] == 0
    found = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*.png")}
    sizes = {"turned": (60, 80), "below/palette": (40, 60), "grey": (24, 20)}
    assert found.keys() == {f"{name}-x2{ending}.png" for name in sizes for ending in ("", "-bicubic")}
    for name, path in found.items():
        with Image.open(path) as image:
            assert image.size == sizes[name.partition("-x2")[0]]
            assert image.mode == {"turned": "RGB", "below/palette": "RGBA", "grey": "L"}[name.partition("-x2")[0]]


def test_both_files_have_the_profile_of_the_original_if_it_fits(run: Path, tmp_path: Path, call: Callable) -> None:
    given, rgb = tmp_path / "given", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    given.mkdir()
    grey, cmyk = (rgb[:16] + space + rgb[20:] for space in (b"GRAY", b"CMYK"))  # as ICC.1, 7.2, has it
    photograph(9, 9).save(given / "rgb.png", icc_profile=rgb)
    photograph(9, 9, "RGBA").save(given / "alpha.png", icc_profile=rgb)
    photograph(9, 9).quantize().save(given / "palette.png", icc_profile=rgb)
    photograph(9, 9, "L").save(given / "grey.png", icc_profile=grey)
    photograph(9, 9, "LA").save(given / "grey_alpha.png", icc_profile=grey)
    photograph(9, 9).convert("CMYK").save(given / "cmyk.jpg", icc_profile=cmyk)
    photograph(9, 9, "L").save(given / "colours_of_grey.jpg", icc_profile=rgb)
    photograph(9, 9).save(given / "grey_of_colours.jpg", icc_profile=grey)
    photograph(9, 9).save(given / "damaged.png", icc_profile=b"damaged")
    photograph(9, 9).save(given / "none.png")
    assert call(upscale, run, given, "--out", tmp_path / "out").status == 0
    expected = {"rgb": rgb, "alpha": rgb, "palette": rgb, "grey": grey, "grey_alpha": grey}
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as image:
            assert image.info.get("icc_profile") == expected.get(path.stem.partition("-x2")[0]), path.name


def test_what_cannot_be_enlarged_is_named_and_the_others_are(run: Path, tmp_path: Path, call: Callable) -> None:
    given = tmp_path / "given"
    given.mkdir()
    deep = (np.arange(30 * 30 * 3) * 24).astype(np.uint16).reshape(30, 30, 3)
    cv2.imwrite(str(given / "colours16.png"), deep)
    cv2.imwrite(str(given / "grey16.png"), deep[..., 0])
    (given / "text.jpg").write_text("no picture")
    photograph(9, 9).save(given / "good.png")
    code, _, errors = call(upscale, run, given, "--out", tmp_path / "out")
    assert code == 1
    lines = errors.strip().splitlines()  # the bar leaves a line
    assert len(lines) == 3
    assert "colours16.png cannot be enlarged: it has more than 8 bits" in lines[0]
    assert "grey16.png cannot be enlarged: it has more than 8 bits" in lines[1]
    assert "text.jpg cannot be enlarged: it is no picture" in lines[2]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good-x2.png", "good-x2-bicubic.png"}


def test_two_pictures_of_one_name_are_refused(run: Path, tmp_path: Path, call: Callable) -> None:
    for name in ("a.png", "a.jpg"):
        photograph(9, 9).save(tmp_path / name)
    code, _, errors = call(upscale, run, tmp_path, "--out", tmp_path / "out")
    assert code == 1
    assert "would both become" in errors
    assert not (tmp_path / "out").exists()


def test_figures_follow_their_formulas(run: Path, tmp_path: Path, call: Callable) -> None:
    image = photograph(61, 45)
    image.save(tmp_path / "odd.png")
    code, out, errors = call(upscale, run, "--evaluate", tmp_path / "odd.png", "--format", "csv")
    assert code == 0, errors
    (row,) = csv.DictReader(io.StringIO(out))
    original = image.crop((0, 0, 60, 44))
    sharper, interpolated = Upscaler.load(run).enlarge(original.resize((30, 22), Image.Resampling.BICUBIC))

    def luminance(picture: Image.Image) -> np.ndarray:
        red, green, blue = (np.asarray(picture)[..., channel] / 255.0 for channel in range(3))
        return (16 + 65.481 * red + 128.553 * green + 24.966 * blue)[2:-2, 2:-2]

    expected = luminance(original)
    for name, picture in (("psnr", sharper), ("psnr_bicubic", interpolated)):
        error = np.mean((luminance(picture) - expected) ** 2)
        assert float(row[name]) == pytest.approx(10 * np.log10(255**2 / error), abs=1e-6)
        ssim = structural_similarity(luminance(picture), expected)
        assert float(row[name.replace("psnr", "ssim")]) == pytest.approx(ssim, abs=1e-4)


@pytest.mark.parametrize(
    ("error", "status", "words"), [(KeyboardInterrupt(), 130, ""), (MemoryError(), 1, "take a smaller --tile")]
)
def test_figures_found_before_an_early_end_are_told(
    run: Path,
    tmp_path: Path,
    call: Callable,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    words: str,
) -> None:
    for number in range(3):
        photograph(30, 30, seed=number).save(tmp_path / f"{number}.png")
    _, whole, _ = call(upscale, run, tmp_path, "--evaluate", "--format", "csv")
    compare = upscale.compare

    def until_the_third(upscaler: Upscaler, picture: str, progress: Callable) -> upscale.Comparison:
        if picture.endswith("2.png"):
            raise error
        return compare(upscaler, picture, progress)

    monkeypatch.setattr(upscale, "compare", until_the_third)
    done = call(upscale, run, tmp_path, "--evaluate", "--format", "csv")
    assert (done.status, words in done.err) == (status, True)
    assert done.out.splitlines() == whole.splitlines()[:3]
    assert "ended after 2 of 3 pictures" in done.err


def test_a_flat_picture_has_no_figure_that_json_lacks(run: Path, tmp_path: Path, call: Callable) -> None:
    Image.new("RGB", (40, 40), (9, 90, 200)).save(tmp_path / "flat.png")
    code, out, errors = call(upscale, run, "--evaluate", tmp_path / "flat.png", "--format", "json")
    assert code == 0, errors
    (found,) = json.loads(out, parse_constant=pytest.fail)
    assert found["psnr_bicubic"] is None


def structural_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, by OpenCV's Gaussian; without the edges, where the window is not whole."""

    def blurred(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (11, 11), 1.5)[5:-5, 5:-5]

    mean_a, mean_b, c1, c2 = blurred(a), blurred(b), 2.55**2, 7.65**2
    variances = blurred(a * a) - mean_a**2 + blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
    return float(likeness.mean())


def test_without_pictures_the_held_out_photographs_are_measured(run: Path, call: Callable) -> None:
    code, out, errors = call(upscale, run, "--evaluate", "--format", "csv")
    assert code == 0, errors
    rows = list(csv.DictReader(io.StringIO(out)))
    order = np.random.default_rng(42).permutation(10)[:2]  # what the split's seed draws first
    assert sorted(Path(row["picture"]).stem for row in rows) == sorted(map(str, order))
    code, out, _ = call(upscale, run, "--evaluate")
    assert code == 0
    assert "mean of 2" in out
    code, _, errors = call(upscale, run / "checkpoints/best.ckpt", "--evaluate")
    assert code == 1
    assert "is no run's folder" in errors


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--factor", "3"), "the network was trained for x2; leave out --factor, or take one that was trained with"),
        (("--tile", "0"), "--tile: 0 is less than 1"),
        ((), "name the pictures to enlarge"),
    ],
)
def test_wrong_flags(run: Path, tmp_path: Path, call: Callable, args: tuple[str, ...], words: str) -> None:
    photograph(9, 9).save(tmp_path / "a.png")
    code, _, errors = call(upscale, run, *[tmp_path / "a.png"] * bool(args), *args, "--out", tmp_path / "out")
    assert code != 0
    assert words in errors
    assert not (tmp_path / "out").exists()


def test_hidden_colours_are_not_measured(run: Path, tmp_path: Path, call: Callable) -> None:
    shown, hidden = photograph(40, 40), photograph(40, 40, seed=7).convert("RGBA")
    mask = Image.new("L", (40, 40), 255)
    mask.paste(0, (10, 10, 30, 30))
    hidden.paste(shown, mask=mask)
    hidden.putalpha(mask)
    hidden.save(tmp_path / "a.png")
    Image.composite(shown, Image.new("RGB", (40, 40), "white"), mask).save(tmp_path / "b.png")
    done = call(upscale, run, tmp_path, "--evaluate", "--format", "csv")
    one, other = csv.DictReader(io.StringIO(done.out))
    assert {**one, "picture": ""} == {**other, "picture": ""}


def test_too_small_to_compare(run: Path, tmp_path: Path, call: Callable) -> None:
    photograph(40, 15).save(tmp_path / "a.png")
    code, _, errors = call(upscale, run, tmp_path / "a.png", "--evaluate")
    assert code == 1
    assert "a.png cannot be enlarged: it has 40x14 pixels, too few to compare; 15 are needed" in errors


def test_a_folder_without_pictures_and_a_network_that_is_not_there(run: Path, tmp_path: Path, call: Callable) -> None:
    (tmp_path / "empty").mkdir()
    code, _, errors = call(upscale, run, tmp_path / "empty")
    assert (code, errors.strip()) == (1, f"error: the folder {tmp_path / 'empty'} holds no picture")
    code, _, errors = call(upscale, tmp_path / "none.ckpt", tmp_path / "empty")
    assert code == 1
    assert "none.ckpt is no file" in errors


def test_a_classifier_is_refused(run: Path, tmp_path: Path, call: Callable) -> None:
    saved = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    saved["config"] = saved["config"].replace("lightning_modules.SRCNN", "lightning_modules.MiniVGGNet")
    torch.save(saved, tmp_path / "other.ckpt")
    code, _, errors = call(upscale, tmp_path / "other.ckpt", tmp_path)
    assert code == 1
    assert "other.ckpt holds a MiniVGGNet, which is no SRCNN" in errors


def test_the_runs_figures_are_those_of_its_windows(run: Path) -> None:
    """Bicubic PSNR of the test, from the stored pairs alone."""
    folder = run.parents[2]
    data = PhotographPairs(
        str(folder / "data"), str(folder / "photographs"), colour="luminance", test_fraction=0.2, batch_size=16
    )
    data.setup("test")
    pairs = data.splits["test"].__getitems__(range(len(data.splits["test"])))[0].numpy()[:, 6:27, 6:27] / 255
    error = np.mean((pairs[..., 0] - pairs[..., 1]) ** 2)
    metrics = json.loads((run / "report/metrics.json").read_text())
    assert metrics["samples"] == len(pairs)
    assert metrics["test/psnr_bicubic"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    assert metrics["test/psnr"] == pytest.approx(-10 * np.log10(metrics["test/loss"]), abs=0.5)  # which is not clipped
