"""Any folder of pictures: layouts, formats, and what is no picture."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
from datamodules import ImageFolder
from datamodules.audit import audit

PROJECT = Path(main.__file__).parent


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (12, 12), **options: object) -> None:
    """A red picture, as far as its mode can be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    red = Image.new("RGB", size, (250, 10, 10))
    (Image.fromarray(np.full(size, 60_000, np.uint16)) if mode == "I;16" else red.convert(mode)).save(path, **options)


def folder_of(raw: Path, names: tuple[str, ...] = ("a", "b"), count: int = 12) -> Path:
    for name in names:
        for number in range(count):
            save(raw / name / f"{number}.png")
    return raw


def packed(root: Path, source: Path, **arguments: object) -> ImageFolder:
    data = ImageFolder(root=str(root), source=str(source), image_size=8, **arguments)
    data.prepare_data()
    data.setup("test")
    return data


def sizes(data: ImageFolder) -> dict[str, int]:
    return {split: len(dataset) for split, dataset in data.splits.items()}


def test_class_folders_are_split(tmp_path: Path) -> None:
    data = packed(tmp_path / "data", folder_of(tmp_path / "pets", ("cat", "äpfel und birnen", "dog"), 20))
    assert data.classes == ["cat", "dog", "äpfel und birnen"]
    assert sizes(data) == {"train": 40, "val": 5, "test": 15}
    assert data.folder.name.startswith("pets-")
    assert packed(tmp_path / "data", tmp_path / "pets").classes == data.classes  # from the manifest


@pytest.mark.parametrize("name", ["train/c", "test"])
def test_a_link_that_leads_nowhere_is_no_missing_class_or_split(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path / "pets/train")
    (tmp_path / "pets" / name).symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=f"{name} is a link that leads nowhere; mend it, or remove it"):
        packed(tmp_path / "data", tmp_path / "pets")


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_rows_name_their_files(tmp_path: Path, encoding: str) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat/äpfel 1.png", *(f"{kind}/in/{number}.png" for kind in ("cat", "dog") for number in range(12))):
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), tuple(rng.integers(0, 256, 3).tolist())).save(path)
    (tmp_path / "pets/dog/in/broken.png").write_bytes(b"none")
    data = packed(tmp_path / "data", tmp_path / "pets", encoding=encoding, jpeg_quality=100, skip_broken=True)
    named = [name for split in data.splits for name in data.files(split)]
    assert len(set(named)) == 25
    assert "cat/äpfel 1.png" in named
    for split, rows in data.splits.items():
        for (picture, label), name in zip(rows, data.files(split), strict=True):
            colour = np.asarray(Image.open(tmp_path / "pets" / name))[0, 0]
            np.testing.assert_allclose(picture[0, 0], colour, atol=4 * (encoding == "jpeg"))
            assert name.startswith(data.classes[label])
    assert list(audit(data.folder)) == []
    shutil.move(tmp_path / "pets", tmp_path / "elsewhere/pets")
    other = packed(
        tmp_path / "data", tmp_path / "elsewhere/pets", encoding=encoding, jpeg_quality=100, skip_broken=True
    )
    assert other.folder != data.folder
    assert other.checksum_of("test") == data.checksum_of("test")  # of pictures, not of their names
    (data.folder / "files.json").write_text("{}")
    assert [finding.split(" has ")[0] for finding in audit(data.folder)] == [str(data.folder / "files.json")]


def test_folders_of_the_same_name_are_packed_apart(tmp_path: Path) -> None:
    first = packed(tmp_path / "data", folder_of(tmp_path / "mine/pets", ("cat", "dog")))
    second = packed(tmp_path / "data", folder_of(tmp_path / "yours/pets", ("cat", "dog"), 20))
    assert first.folder != second.folder
    assert sum(sizes(first).values()) == 24
    assert sum(sizes(second).values()) == 40


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = packed(tmp_path / "data", folder_of(tmp_path / "set", ("bus", "car", "train")))
    assert list(data.classes) == ["bus", "car", "train"]


def test_splits_may_be_called_training_and_testing(tmp_path: Path) -> None:
    for name in ("Training", "Testing"):
        folder_of(tmp_path / "set" / name)
    data = packed(tmp_path / "data", tmp_path / "set")
    assert not {"Training", "Testing"} & set(data.classes)
    assert set(data.splits) == {"train", "val", "test"}


def test_a_split_may_lack_a_class(tmp_path: Path) -> None:
    folder_of(tmp_path / "set/train")
    folder_of(tmp_path / "set/test", ("b",))
    data = packed(tmp_path / "data", tmp_path / "set")
    assert set(data.splits["test"].labels) == {1}


def test_hidden_pictures_are_left_out(tmp_path: Path) -> None:
    raw = folder_of(tmp_path / "set")
    expected = sizes(packed(tmp_path / "data", raw))
    (raw / "a/.ipynb_checkpoints").mkdir()
    for picture in list((raw / "a").glob("*.png")):
        (raw / "a/.ipynb_checkpoints" / f"{picture.stem}-checkpoint.png").write_bytes(picture.read_bytes())
    assert sizes(packed(tmp_path / "data", raw)) == expected  # the set is still that of the folder
    assert sizes(packed(tmp_path / "other", raw)) == expected


def test_packed_sets_do_not_go_among_the_pictures(tmp_path: Path) -> None:
    raw = folder_of(tmp_path / "set")
    with pytest.raises(ValueError, match=r"would go to .*set/data, which lies in"):
        packed(raw / "data", raw)
    assert not (raw / "data").exists()


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders_are_kept(tmp_path: Path, val: str) -> None:
    raw = tmp_path / "set"
    for split, count in (("train", 10), (val, 3), ("test", 2)):
        folder_of(raw / split, count=count)
    assert sizes(packed(tmp_path / "data", raw)) == {"train": 20, "val": 6, "test": 4}


def test_every_format_and_mode_becomes_rgb(tmp_path: Path) -> None:
    raw = folder_of(tmp_path / "set", ("plain",), 20)
    odd = {
        "gray.png": "L",
        "palette.PNG": "P",
        "cmyk.jpg": "CMYK",
        "alpha.png": "RGBA",
        "two values.gif": "P",
        "web.webp": "RGB",
        "deep.png": "I;16",
        "plain.bmp": "RGB",
        "scan.TIFF": "RGB",
        "below/deeper.jpeg": "RGB",
    }
    for name, mode in odd.items():
        save(raw / "odd" / name, mode, size=(9, 30))
    (raw / "odd" / "readme.txt").write_text("no picture")
    (raw / "odd" / ".DS_Store").write_text("hidden")
    (raw / ".cache").mkdir()
    data = packed(tmp_path / "data", raw, test_fraction=0.4, val_fraction=0.4)
    assert sum(sizes(data).values()) == 30
    for dataset in data.splits.values():
        images, labels = dataset.__getitems__(range(len(dataset)))
        assert (images[labels == 1][:, 4, 4, 0] > 200).all()  # "plain" comes after "odd"


def test_pictures_are_upright(tmp_path: Path) -> None:
    """An EXIF note that says "turned" is obeyed before the crop."""
    raw = folder_of(tmp_path / "set", ("a", "b"))
    picture = Image.new("RGB", (8, 8), "black")
    picture.paste((255, 255, 255), (0, 0, 8, 4))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    for number in range(12):
        picture.save(raw / "b" / f"{number}.png", exif=exif)
    images, labels = packed(tmp_path / "data", raw).splits["train"].__getitems__([*range(10)])
    turned = images[labels == 1][0, :, :, 0]
    assert (turned[:, 4:] > 200).all()
    assert (turned[:, :4] < 50).all()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda raw: None, "set is not a folder"),
        (lambda raw: raw.mkdir(), "no subfolders"),
        (lambda raw: folder_of(raw, ("a",)) and (raw / "empty").mkdir(), "empty holds no pictures"),
        (lambda raw: folder_of(raw / "val"), "no folder train"),
        (lambda raw: (folder_of(raw / "train"), folder_of(raw / "test", ("z",))), "z is a class without training"),
        (lambda raw: (folder_of(raw / "train"), save(raw / "test/0.png")), "set/test has no subfolders; it needs"),
        (lambda raw: [folder_of(raw / name) for name in ("train", "val", "Validation")], "both be the val split"),
        (
            lambda raw: [folder_of(raw / name) for name in ("train", "test", "more")],
            "more lies beside folders of",
        ),
        pytest.param(
            lambda raw: folder_of(raw, (os.fsdecode(b"caf\xe9"), "tea")),
            r"'caf\\udce9' .* is named by bytes",
            marks=pytest.mark.skipif(sys.platform == "darwin", reason="its disks take no such name"),
        ),
        (lambda raw: (folder_of(raw), (raw / "a/0.png").write_bytes(b"text")), "0.png cannot be read.*skip_broken"),
    ],
)
def test_what_is_wrong_with_a_folder(tmp_path: Path, make: object, complaint: str) -> None:
    make(tmp_path / "set")
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        packed(tmp_path / "data", tmp_path / "set")


def test_a_source_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--data.source FOLDER"):
        _ = ImageFolder(root=str(tmp_path)).num_classes


def test_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network gets its number of classes from the folder's names."""
    folder_of(tmp_path / "set", ("a", "b", "c"), 24)
    monkeypatch.chdir(tmp_path)
    config = str(PROJECT / "experiments/quickstart_digits.yaml")
    data = ["--data", "datamodules.ImageFolder", "--data.source", "set", "--data.image_size", "16"]
    quick = ["--data.batch_size", "8", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    flags = [*data, *quick, "--trainer.enable_progress_bar", "false", "--name", "a"]
    main.run_command(["fit", "--config", config, *flags])
    (record,) = json.loads(Path("runs/quickstart_digits/a/history.json").read_text())
    assert record["step"] == 6
