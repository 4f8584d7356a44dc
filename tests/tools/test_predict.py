"""Pictures named, and networks exported: the same probabilities as the test of the run, whatever the way."""

import csv
import io
import json
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import main
from callbacks.prediction_store import Predictions
from datamodules import Digits
from lightning_modules.saved import save_weights
from pictures import picture
from predictor import Predictor
from tools import export, predict

PROJECT = Path(main.__file__).parent
CROPPED = ["--data.batch_augment", "datamodules.BatchAugment", "--data.batch_augment.crop", "24"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tested run on the digits, in a folder without data."""
    folder = tmp_path_factory.mktemp("run")
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--data.root", str(shards), *QUIET]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "20"]
        main.run_command(["fit", *config, *short, "--name", "a", "--then", "test"])
    return folder / "runs/quickstart_digits/a"


@pytest.fixture(scope="module")
def pictures(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test pictures as files."""
    folder = tmp_path_factory.mktemp("pictures")
    data = Digits(root=str(shards))
    data.setup("test")
    for row in range(20):
        Image.fromarray(data.splits["test"][row][0].numpy()).save(folder / f"{row:02d}.png")
    return folder


def test_a_checkpoint_alone_says_what_the_test_said(call: Callable, run: Path, pictures: Path) -> None:
    done = call(predict, run / "checkpoints/best.ckpt", pictures, "--format", "json", "--batch_size", 7, "--top", 10)
    assert done.status == 0, done.err
    tested = Predictions.load(run)
    for row, found in enumerate(json.loads(done.out)):
        assert found["picture"] == str(pictures / f"{row:02d}.png")
        told = {choice["class"]: choice["probability"] for choice in found["classes"]}
        assert list(told.values()) == sorted(told.values(), reverse=True)
        np.testing.assert_allclose([told[name] for name in tested.names], tested.probabilities[row], atol=2e-6)


def test_csv_standard_input_and_a_table(call: Callable, run: Path, pictures: Path) -> None:
    best = Predictions.load(run)
    done = call(predict, run, "-", "--format", "csv", "--top", "1", given=(pictures / "00.png").read_bytes())
    (row,) = csv.DictReader(io.StringIO(done.out))
    expected = best.names[int(best.probabilities[0].argmax())]
    assert (row["picture"], row["rank"], row["class"]) == ("-", "1", expected)
    told = call(predict, run, pictures / "00.png").out
    assert expected in told
    assert len(re.findall(r"\d\.\d\d │", told)) == 5


@pytest.mark.parametrize("form", ["csv", "json"])
def test_what_was_predicted_before_a_failure_is_written(form: str) -> None:
    def broken() -> Iterator[predict.Prediction]:
        yield {"picture": "a.png", "classes": [{"class": "b", "probability": 0.123456}]}
        raise KeyboardInterrupt

    file = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        predict.write(broken(), form, file)
    assert "a.png" in file.getvalue()
    assert "0.123456" in file.getvalue()
    found = [{"picture": name, "classes": []} for name in "ab"]
    for some in (found, found[:1], []):
        whole = io.StringIO()
        predict.write(iter(some), "json", whole)
        assert json.loads(whole.getvalue()) == some


def test_a_table_has_percentages_and_each_name_once_and_whole() -> None:
    file, names = io.StringIO(), [150 * "a" + end for end in ("1.png", "2.png")]
    classes = [{"class": "b", "probability": 0.875}, {"class": "c", "probability": 0.125}]
    predict.write([{"picture": name, "classes": classes} for name in names], "table", file)
    words = ("1.png", "2.png", " 87.50 ", " 12.50 ")
    assert [file.getvalue().count(word) for word in words] == [1, 1, 2, 2]


def test_odd_pictures_are_read_and_broken_ones_named(call: Callable, run: Path, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    noise.convert("CMYK").save(tmp_path / "cmyk.jpg")
    noise.quantize(16).save(tmp_path / "palette.png")
    noise.resize((1, 1)).save(tmp_path / "one_pixel.png")
    noise.resize((20_000, 3)).save(tmp_path / "wide.png")
    (tmp_path / "text.jpg").write_text("no picture")
    whole = (tmp_path / "cmyk.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    Image.new("L", (20_000, 10_000)).save(tmp_path / "huge.png")
    (tmp_path / "notes.txt").write_text("left out: the suffix is no picture's")
    done = call(predict, run, tmp_path, tmp_path / "missing.png", "--format", "json", "--batch_size", 2)
    assert done.status == 1
    found = {Path(each["picture"]).name: each for each in json.loads(done.out)}
    broken = {name for name, each in found.items() if "error" in each}
    assert broken == {"text.jpg", "cut.jpg", "empty.png", "huge.png", "missing.png"}
    assert set(found) - broken == {"cmyk.jpg", "palette.png", "one_pixel.png", "wide.png"}
    told = done.err
    assert all(name in told for name in broken)
    assert "truncated" in found["cut.jpg"]["error"]
    assert "exceeds limit" in found["huge.png"]["error"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its disks take no such name")
def test_a_file_whose_name_is_no_text(call: Callable, run: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.png")  # Latin-1, as old disks have it
    shutil.copy(pictures / "00.png", file)
    shutil.copy(pictures / "01.png", tmp_path / "café.png")
    found = {form: call(predict, run, tmp_path, "--format", form, "--top", 1) for form in ("json", "csv", "table")}
    assert {(done.status, done.err) for done in found.values()} == {(0, "")}
    assert {each["picture"] for each in json.loads(found["json"].out)} == {str(file), str(tmp_path / "café.png")}
    names = {row["picture"] for row in csv.DictReader(io.StringIO(found["csv"].out))}
    assert names == {str(tmp_path / r"caf\udce9.png"), str(tmp_path / "café.png")}
    assert all(row.count("│") == 4 for row in found["table"].out.splitlines() if row.startswith("│"))


def test_a_camera_turned_on_its_side(tmp_path: Path) -> None:
    upright = Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, 32, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=turned)
    np.testing.assert_array_equal(picture(tmp_path / "turned.png", 32), np.asarray(upright))


@pytest.mark.parametrize(("levels", "expected"), [(65536, 255), (200, 199)])
def test_sixteen_bits(tmp_path: Path, levels: int, expected: int) -> None:
    values = np.linspace(0, levels - 1, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(values).save(tmp_path / "16.png")
    found = picture(tmp_path / "16.png", 32)
    assert found.max() == expected
    np.testing.assert_array_equal(found[..., 0], values >> 8 if levels > 256 else values)


@pytest.mark.parametrize(("mode", "words"), [("F", "floating-point"), ("I", "more than 16 bits")])
def test_values_of_unknown_range_are_named(tmp_path: Path, mode: str, words: str) -> None:
    Image.fromarray(np.full((8, 8), 1e6, np.float32 if mode == "F" else np.int32)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=words):
        picture(tmp_path / "x.tif", 8)


def test_what_cannot_be_predicted_with(call: Callable, run: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "broken.ckpt").write_bytes(b"no checkpoint")
    checkpoint = torch.load(run / "checkpoints/best.ckpt")
    del checkpoint["preprocessing"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    for args, words in (
        ((run, tmp_path / "nothing"), "holds no picture"),
        ((tmp_path / "nowhere.ckpt", pictures), "is no file"),
        ((tmp_path / "nothing", pictures), "is no file"),
        ((tmp_path / "broken.ckpt", pictures), "is damaged"),
        ((tmp_path / "old.ckpt", pictures), "lacks preprocessing"),
        ((run, pictures, "--top", 0), "--top: 0 is less than 1"),
    ):
        done = call(predict, *args)
        assert done.status in (1, 2), words
        assert words in done.err


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
def test_exports_agree(call: Callable, run: Path, pictures: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"network{suffix}"
    done = call(export, run, file, "--check", pictures)
    assert done.status == 0, done.err
    assert "on 20 given pictures" in done.out
    assert list(tmp_path.iterdir()) == [file]
    tested = Predictions.load(run)
    images = np.stack([picture(path, 32) for path in sorted(pictures.iterdir())])
    for count in (1, 20):  # any batch size
        np.testing.assert_allclose(outside(file, images[:count]), tested.probabilities[:count], atol=1e-5)


def outside(file: Path, images: np.ndarray) -> np.ndarray:
    """What the file says without this project's code, where that is possible."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file)
        assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == [str(digit) for digit in range(10)]
        return session.run(None, {"images": images})[0]
    if file.suffix == ".pt2":
        facts = {"facts.json": ""}
        program = torch.export.load(file, extra_files=facts)
        assert json.loads(facts["facts.json"])["stored_size"] == "32"
        return program.module()(torch.from_numpy(images)).detach().numpy()
    return Predictor.load(file).probabilities(list(images))


def broken(images: np.ndarray) -> np.ndarray:
    raise RuntimeError("broken")


def interrupted(images: np.ndarray) -> np.ndarray:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("runner", "status", "words"),
    [(lambda images: 0.5, 1, "differs by"), (broken, 1, "broken"), (interrupted, 130, "")],
)
def test_what_is_not_proven_is_not_there(
    call: Callable, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: export.Runner, status, words
) -> None:
    def unproven(predictor: Predictor, file: Path) -> export.Runner:
        for name in (file, file.with_name(f"{file.name}.data")):
            name.write_text("unproven")
        return runner

    monkeypatch.setattr(export, "export_torch", unproven)
    folder = tmp_path / "exports"
    for earlier in (False, True):
        if earlier:
            (folder / "x.pt2").write_text("earlier")
        done = call(export, run, folder / "x.pt2")
        assert (done.status, words in done.err) == (status, True)
        assert {path.name: path.read_text() for path in folder.iterdir()} == ({"x.pt2": "earlier"} if earlier else {})


@pytest.mark.parametrize("suffix", export.SUFFIXES)
def test_a_disk_that_is_full_is_named(call: Callable, run: Path, tmp_path: Path, suffix: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        done = call(export, run, tmp_path / f"exports/x{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (done.status, f"x{suffix} cannot be opened or written: file too large" in done.err) == (1, True)
    assert not list((tmp_path / "exports").iterdir())


def test_weights_are_proven_by_what_was_written(
    call: Callable, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halved(network: str, file: Path) -> None:
        checkpoint = torch.load(Path(network, "checkpoints/best.ckpt"))
        checkpoint["state_dict"] = {
            name: (weights / 2).to(weights) for name, weights in checkpoint["state_dict"].items()
        }
        torch.save(checkpoint, tmp_path / "halved.ckpt")
        save_weights(tmp_path / "halved.ckpt", file)

    monkeypatch.setattr(export, "save_weights", halved)
    done = call(export, run, tmp_path / "network.safetensors")
    assert (done.status, "what was exported differs by" in done.err) == (1, True)


def test_a_link_stays_one(call: Callable, run: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    link = tmp_path / "network.safetensors"
    link.symlink_to("store/first.safetensors")
    done = call(export, run, link)
    assert (done.status, "on 50 pictures of noise" in done.out) == (0, True)
    assert link.is_symlink()
    assert Predictor.load(tmp_path / "store/first.safetensors").classes == Predictor.load(run).classes


def test_another_suffix(call: Callable, tmp_path: Path) -> None:
    refused = call(export, tmp_path / "no-network", tmp_path / "new/x.h5")
    assert refused.err == f"error: {tmp_path}/new/x.h5 must end with .onnx, .pt2 or .safetensors\n"
    assert not (tmp_path / "new").exists()


def test_evaluation_size_other_than_stored(call: Callable, shards: Path) -> None:
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--data.root", str(shards), *QUIET]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--data.normalization", "standardize"]
    main.run_command(["fit", *config, *short, *CROPPED, "--name", "a", "--then", "test"])
    run, data = Path("runs/quickstart_digits/a"), Digits(root=str(shards))
    data.setup("test")
    images = data.splits["test"].__getitems__(range(50))[0].numpy()
    predictor = Predictor.load(run)
    found = predictor.probabilities(list(images))
    # the test rounds scaled pixels to whole numbers
    np.testing.assert_allclose(found, Predictions.load(run).probabilities[:50], atol=0.02)
    Image.fromarray(images[0]).save("0.png")
    (told,) = predict.predictions(predictor, ["0.png"], top=10, batch_size=1)
    np.testing.assert_allclose([each["probability"] for each in told["classes"]], np.sort(found[0])[::-1], atol=2e-6)
    assert call(export, run, "x.pt2", "--check", "0.png").status == 0
    assert export._facts(predictor)["stored_size"] == "32"


def test_pictures_are_scaled_between_the_middles_of_pixels() -> None:
    still = {"shift": torch.full((1, 3, 1, 1), 40.0), "scale": torch.tensor(0.5)}
    predictor = Predictor(torch.nn.Identity(), {"classes": ["a"], "stored_size": 2, "input_size": 4, **still})
    columns = torch.tensor([0, 80], dtype=torch.uint8)[None, None, :, None].expand(1, 2, 2, 3)
    expected = torch.tensor([-20.0, -10, 10, 20]).expand(1, 3, 4, 4)  # half of 0, 20, 60 and 80 less 40
    torch.testing.assert_close(predictor.normalized(columns), expected)


def test_the_largest_difference_is_that_of_any_class_and_picture_either_way() -> None:
    images, told = np.zeros((3, 4, 4, 3), np.uint8), np.zeros((3, 2))
    told[2, 1] = 0.25
    assert export.largest_difference(lambda batch: torch.zeros(len(batch), 2), lambda batch: told, images) == 0.25


def test_no_number_is_infinitely_far_wherever_it_is() -> None:
    images = np.zeros((2 * export.BATCH, 4, 4, 3), np.uint8)
    outputs = iter([np.zeros((export.BATCH, 2)), np.full((export.BATCH, 2), np.nan)])
    found = export.largest_difference(lambda batch: torch.zeros(len(batch), 2), lambda batch: next(outputs), images)
    assert found == np.inf


def test_a_picture_to_check_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"bad.png cannot be read"):
        export.pictures_to_check([str(tmp_path)], 8)
