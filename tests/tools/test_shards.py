"""The tool for packed sets: what it tells, finds, packs, exports and draws."""

import hashlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

import main as entry
from datamodules import PhotographPairs
from datamodules.audit import audit
from datamodules.manifest import MANIFEST, MANIFEST_SHA256, VERIFIED, Manifest, verify
from datamodules.pack import pack
from datamodules.samples import Samples
from datamodules.shards import ShardDataset
from tools import shards as tool

PROJECT = Path(entry.__file__).parent
CLASSES = ["a", "b", "c", "d"]
ENCODINGS = ["raw", "jpeg"]
SIZE = 12

Tool = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small set of each encoding, in several shards."""
    rng = np.random.default_rng(0)
    splits = {
        split: Samples(rng.integers(0, 256, (rows, SIZE, SIZE, 3), np.uint8), np.arange(rows) % 4)
        for split, rows in {"train": 40, "val": 8, "test": 12}.items()
    }
    folders = {encoding: tmp_path_factory.mktemp("clean") / encoding for encoding in ENCODINGS}
    for encoding, folder in folders.items():
        pack(folder, "tiny", CLASSES, {"image_size": SIZE}, splits, SIZE, shard_bytes=8_000, encoding=encoding)
        assert len(Manifest.load(folder).splits["train"]) > 1
    return folders


@pytest.fixture(params=ENCODINGS)
def packed(request: pytest.FixtureRequest, clean: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a small set, to be damaged."""
    return shutil.copytree(clean[request.param], tmp_path / request.param)


@pytest.fixture
def run(call: Tool) -> Tool:
    """The tool's exit status, output and errors."""
    return partial(call, tool)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is given to be drawn."""
    given: list[Any] = []
    monkeypatch.setattr(tool, "draw", lambda *arguments: given.append(arguments))
    return given


def test_clean_sets_have_no_findings(packed: Path) -> None:
    assert list(audit(packed)) == []
    verify(packed, Manifest.load(packed))
    assert list(audit(packed)) == []


def test_every_flipped_byte_is_found(packed: Path) -> None:
    rng = random.Random(1)
    files = sorted(set(packed.iterdir()) - {packed / VERIFIED})  # which may be deleted
    assert {MANIFEST, MANIFEST_SHA256, "statistics.h5"} < {file.name for file in files}
    for number in range(200):
        file = files[number % len(files)]
        content = file.read_bytes()
        place, mask = rng.randrange(len(content)), rng.randrange(1, 256)
        file.write_bytes(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :])
        findings = list(audit(packed))
        assert any(file.name in finding for finding in findings), (file.name, place, mask, findings)
        file.write_bytes(content)
    assert list(audit(packed)) == []


def test_every_truncation_is_found(packed: Path) -> None:
    rng = random.Random(2)
    files = sorted(set(packed.iterdir()) - {packed / VERIFIED})  # which may be deleted
    for number in range(50):
        file = files[number % len(files)]
        content = file.read_bytes()
        file.write_bytes(content[: rng.randrange(len(content))])
        findings = list(audit(packed))
        assert any(file.name in finding for finding in findings), (file.name, findings)
        file.write_bytes(content)
    assert list(audit(packed)) == []


def edit(path: Path, name: str, row: int, change: Callable[[np.ndarray], object]) -> None:
    """Change one row of one dataset of a shard."""
    with h5py.File(path, "r+") as file:
        if name == "images" and "offsets" in file:
            start, end = file["offsets"][row : row + 2]
            file["images"][start:end] = change(file["images"][start:end])
        else:
            file[name][row] = change(file[name][row])


def flip_middle(picture: np.ndarray) -> np.ndarray:
    flat = picture.ravel().copy()
    flat[len(flat) // 2] ^= 1
    return flat.reshape(picture.shape)


@pytest.mark.parametrize("known", [True, False])
def test_broken_rows_are_named(packed: Path, known: bool) -> None:
    """Also where the manifest is gone."""
    shards = [packed / shard.file for shard in Manifest.load(packed).splits["train"]]
    edit(shards[0], "images", 3, flip_middle)
    edit(shards[0], "images", 5, flip_middle)
    edit(shards[1], "labels", 2, lambda label: (label + 1) % 4)
    edit(shards[1], "labels", 1, lambda label: 4)
    if not known:
        (packed / MANIFEST).unlink()
    findings = "\n".join(audit(packed))
    assert f"{shards[0]}: each of the rows 3, 5 does not match its checksum" in findings
    if known:
        assert f"{shards[1]}: row 2 does not match its checksum" in findings
        assert f"{shards[1]}: row 1 has a label outside 0..3" in findings
        assert f"{shards[0]} was changed since it was packed" in findings
    else:
        assert f"{shards[1]}: each of the rows 1, 2 does not match its checksum" in findings
        assert f"{packed / MANIFEST} is missing" in findings


def test_offsets_that_fall_are_named(clean: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(clean["jpeg"], tmp_path / "jpeg")
    shard = folder / Manifest.load(folder).splits["train"][0].file
    edit(shard, "offsets", 3, lambda offset: 0)
    findings = "\n".join(audit(folder))
    assert f"{shard}: row 2 has offsets that do not rise" in findings
    assert f"{shard}: row 3 does not match its checksum" in findings


def test_pictures_of_another_size_are_named(clean: dict[str, Path], tmp_path: Path) -> None:
    """Even where every checksum says that they were packed so."""
    pictures = Samples(np.zeros((3, SIZE, SIZE, 3), np.uint8), np.arange(3))
    for encoding in ENCODINGS:
        recipe = {"image_size": SIZE + 1}
        pack(tmp_path / encoding, "x", CLASSES, recipe, dict.fromkeys(("train", "val", "test"), pictures), SIZE)
        findings = list(audit(tmp_path / encoding))
        assert len(findings) == 3
        assert all("pictures of the shape (12, 12, 3), not (13, 13, 3)" in finding for finding in findings)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda fields: fields["channel_mean"].reverse(), "but the manifest has"),
        (lambda fields: fields.update(channel_std=[1, 2, 300]), "channel_std is [1, 2, 300], not 3 numbers from 0 to"),
        (lambda fields: fields.update(classes=["a", "b", "a", "d"]), "the manifest names a class twice"),
        (lambda fields: fields["statistics"].update(rows=39), "statistics of 39 rows, but 40 training rows"),
        (lambda fields: fields["splits"].pop("val"), "the manifest has no val split"),
    ],
)
def test_a_manifest_that_contradicts_its_set_is_found(
    packed: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    """Even where its checksum is right."""
    fields = json.loads((packed / MANIFEST).read_text())
    change(fields)
    (packed / MANIFEST).write_text(json.dumps(fields))
    line = f"{hashlib.sha256((packed / MANIFEST).read_bytes()).hexdigest()}  {MANIFEST}\n"
    (packed / MANIFEST_SHA256).write_text(line)
    (finding,) = audit(packed)
    assert told in finding


def test_the_record_of_earlier_checks_is_not_trusted(packed: Path, run: Tool) -> None:
    manifest = Manifest.load(packed)
    verify(packed, manifest)
    path = packed / manifest.splits["val"][0].file
    stamp = path.stat()
    edit(path, "images", 1, flip_middle)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    verify(packed, manifest)  # by size and time it is the same file
    assert (packed / VERIFIED).exists()
    status, out, _ = run("verify", packed)
    assert status == 1
    assert f"{path} was changed" in out
    assert "row 1 does not match its checksum" in out


def test_verify_goes_on_after_a_finding(packed: Path, run: Tool) -> None:
    assert run("verify", packed)[:2] == (
        0,
        f"ok: 60 rows in {len(list(packed.glob('*-of-*')))} shards are what was packed\n",
    )
    manifest = Manifest.load(packed)
    gone, cut = packed / manifest.splits["train"][0].file, packed / manifest.splits["test"][0].file
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    (packed / MANIFEST_SHA256).unlink()
    status, out, _ = run("verify", packed)
    assert status == 1
    for told in (f"{gone} is missing", f"{cut} has", f"{MANIFEST_SHA256} is missing"):
        assert told in out
    assert f"{out.count('wrong: ')} findings: delete the folder" in out


def test_readers_refuse_an_edited_manifest(packed: Path) -> None:
    path = packed / MANIFEST
    path.write_text(path.read_text().replace('"tiny"', '"tony"', 1))
    with pytest.raises(ValueError, match=r"manifest\.json was changed since it was packed.*delete the folder"):
        verify(packed, Manifest.load(packed))


def test_brackets_and_colons_in_names_are_no_markup(run: Tool, tmp_path: Path) -> None:
    samples = Samples(np.zeros((4, SIZE, SIZE, 3), np.uint8), np.arange(4))
    splits = {split: samples for split in ("train", "val", "test")}
    names = ["cat [tabby]", "cat [/tabby]", ":cat:", "[bold]"]
    folder = tmp_path / "[" / "x]"  # what would be a closing tag
    pack(folder, "tiny", names, {"image_size": SIZE}, splits, SIZE, shard_bytes=8_000)
    status, out, err = run("info", folder)
    assert status == 0, err
    assert all(f" {name} " in out for name in names)
    status, out, err = run("verify", folder)
    assert (status, out) == (0, "ok: 12 rows in 3 shards are what was packed\n"), err


def test_info_tells_what_a_set_holds(packed: Path, run: Tool) -> None:
    status, out, _ = run("info", packed)
    assert status == 0
    manifest = Manifest.load(packed)
    words = " ".join(out.split())
    assert f"classes 4 pictures 12 x 12 x 3, {packed.name} shards" in words
    assert ", ".join(f"{value:.3f}" for value in manifest.channel_mean) in words
    assert f"{sum(file.bytes for file in manifest.files()):,} bytes" in words
    lines = [line.replace("│", " ").split() for line in out.splitlines()]
    assert ["b", "10", "2", "3"] in lines
    assert ["all", "40", "8", "12"] in lines


@pytest.mark.parametrize(("official", "told"), [(False, True), (True, False), (None, False)])
def test_info_names_other_files_than_the_published_ones(
    official: bool | None, told: bool, tmp_path: Path, run: Tool
) -> None:
    samples = Samples(np.zeros((4, SIZE, SIZE, 3), np.uint8), np.array([0, 0, 0, 1]))
    splits = dict.fromkeys(("train", "val", "test"), samples)
    pack(tmp_path / "set", "tiny", CLASSES, {"image_size": SIZE}, splits, SIZE, official=official)
    out = run("info", tmp_path / "set")[1]
    assert ("tiny from other files than the published ones" in out) == told
    assert '{"image_size": 12}' in out
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    assert all(row in rows for row in (["a", "3", "3", "3"], ["b", "1", "1", "1"], ["d", "0", "0", "0"]))


def test_exported_pictures_are_those_stored(packed: Path, tmp_path: Path, run: Tool) -> None:
    assert run("export", packed, tmp_path / "out")[0] == 0
    for split, shards in Manifest.load(packed).splits.items():
        images, labels = (
            array.numpy()
            for array in ShardDataset([packed / shard.file for shard in shards]).__getitems__(
                range(sum(shard.rows for shard in shards))
            )
        )
        files = sorted((tmp_path / "out" / split).rglob("*.*"), key=lambda file: file.stem)
        assert [int(file.stem) for file in files] == list(range(len(images)))
        assert [CLASSES.index(file.parent.name) for file in files] == labels.tolist()
        assert {file.suffix for file in files} == {".jpg" if packed.name == "jpeg" else ".png"}
        if packed.name == "raw":
            for file, image in zip(files, images, strict=True):
                np.testing.assert_array_equal(np.asarray(Image.open(file)), image)
    if packed.name == "jpeg":
        with h5py.File(packed / Manifest.load(packed).splits["val"][0].file) as file:
            first = file["images"][: file["offsets"][1]].tobytes()
        assert (tmp_path / "out/val" / CLASSES[labels_of_first(packed)] / "0.jpg").read_bytes() == first
        assert Image.open(io.BytesIO(first)).size == (SIZE, SIZE)


def labels_of_first(folder: Path) -> int:
    """Label of the first validation row."""
    return int(ShardDataset([folder / Manifest.load(folder).splits["val"][0].file])[0][1])


def test_export_refuses_a_folder_in_use_and_a_damaged_set(packed: Path, tmp_path: Path, run: Tool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").touch()
    status, _, err = run("export", packed, out)
    assert status == 1
    assert f"{out} is not an empty folder" in err
    assert [file.name for file in out.iterdir()] == ["mine.txt"]
    (packed / "statistics.h5").unlink()
    status, _, err = run("export", packed, tmp_path / "new")
    assert status == 1
    assert "statistics.h5 is missing" in err
    assert not (tmp_path / "new").exists()


def test_class_names_become_file_names() -> None:
    names = tool.file_names(
        ["cat", "../up", "a/b", "a:b", "Cat", "", "..", "con", "lily of the valley", "Ä", "x" * 300]
    )
    assert names[0] == "cat"
    assert names[8:10] == ["lily of the valley", "Ä"]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(name.strip(" .") == name and 0 < len(name) < 100 and not {*"/:"} & {*name} for name in names)
    assert "con" not in names


def test_class_names_that_a_system_would_change_or_take_for_one() -> None:
    names = tool.file_names(["4_dog", "Con.txt", "lpt9", "DOG", "dog", 79 * "x" + " y"])
    assert names == ["4_dog", "1_Con.txt", "2_lpt9", "DOG", "4_4_dog", 79 * "x"]


@pytest.mark.parametrize("flags", [[], ["--data.encoding", "jpeg", "--data.jpeg_quality", "70"]])
def test_pack_an_experiment(tmp_path: Path, run: Tool, flags: list[str]) -> None:
    config = PROJECT / "experiments/quickstart_digits.yaml"
    status, out, _ = run("pack", config, "--data.root", tmp_path, *flags)
    assert status == 0
    folder = Path(out.splitlines()[-1])
    assert folder.parent == tmp_path
    assert list(audit(folder)) == []
    assert Manifest.load(folder).recipe.get("jpeg_quality") == (70 if flags else None)
    assert ("jpeg, quality 70" in run("info", folder)[1]) == bool(flags)
    assert run("pack", config, "--data.root", tmp_path, *flags)[:2] == (0, f"{folder}\n")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_preview_of_a_set(packed: Path, tmp_path: Path, run: Tool) -> None:
    for count in (4, 12):
        assert run("preview", packed, tmp_path / f"{count}.png", "--split", "test", "--count", count)[0] == 0
    few, many = pixels(tmp_path / "4.png"), pixels(tmp_path / "12.png")
    assert few.shape[0] < many.shape[0]
    assert few.std() > 10
    status, _, err = run("preview", packed, tmp_path / "no.png", "--split", "dev")
    assert status == 1
    assert "has no split dev; it has train, val, test" in err


def test_preview_shows_each_class_in_turn(tmp_path: Path, drawn: list[Any], run: Tool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)
    splits = dict.fromkeys(("train", "val", "test"), Samples(images, np.array([2, 2, 0, 1, 0, 0])))
    pack(tmp_path / "set", "tiny", CLASSES, {"image_size": SIZE}, splits, SIZE)
    dataset = ShardDataset(sorted((tmp_path / "set").glob("test-*.h5")))
    assert run("preview", tmp_path / "set", "x.png", "--split", "test", "--count", 5)[0] == 0
    ((pictures, titles, title, out),) = drawn
    assert (titles, title, out) == (["a", "b", "c", "a", "c"], "tiny, test", Path("x.png"))
    places = [np.flatnonzero(dataset.labels == label) for label in range(3)]
    rows = [places[0][0], places[1][0], places[2][0], places[0][1], places[2][1]]
    np.testing.assert_array_equal(pictures, dataset.__getitems__(rows)[0])


@pytest.mark.parametrize("row", [0, 2])
def test_preview_shows_the_stored_picture_first(
    tmp_path: Path, raw: Path, drawn: list[Any], run: Tool, row: int
) -> None:
    config = PROJECT / "experiments/minivggnet_flowers17_aug.yaml"
    where = ["--data.root", tmp_path, "--data.source", raw]
    assert run("preview", config, "x.png", "--sample", row, "--count", 2, *where)[0] == 0
    ((pictures, titles, title, _),) = drawn
    (folder,) = {path.parent for path in tmp_path.rglob(MANIFEST)}
    stored, label = ShardDataset(sorted(folder.glob("train-*.h5")))[row]
    assert titles == ["stored", "epoch 0", "epoch 1"]
    assert title == f"minivggnet_flowers17_aug, row {row}: {Manifest.load(folder).classes[label]}"
    np.testing.assert_array_equal(pictures[0], stored)


def test_preview_of_an_experiment(tmp_path: Path, raw: Path, run: Tool) -> None:
    config = PROJECT / "experiments/minivggnet_flowers17_aug.yaml"
    where = ["--data.root", tmp_path, "--data.source", raw]
    for name, sample in (("one", 1), ("again", 1), ("two", 2)):
        assert run("preview", config, tmp_path / f"{name}.png", "--sample", sample, "--count", 3, *where)[0] == 0
    np.testing.assert_array_equal(pixels(tmp_path / "one.png"), pixels(tmp_path / "again.png"))
    assert not np.array_equal(pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png"))
    rows = len(ShardDataset(sorted(tmp_path.rglob("train-*.h5"))))
    for sample in (-1, rows):
        status, _, err = run("preview", config, tmp_path / "no.png", "--sample", sample, *where)
        assert status == 1
        assert f"the training split has rows 0 to {rows - 1}\n" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["info", "nowhere"], "nowhere is no packed set"),
        (["verify", "nowhere"], "nowhere is no packed set"),
        (["export", "nowhere", "out"], "nowhere is no packed set"),
        (["pack", "nowhere.yaml"], "nowhere.yaml is no experiment's YAML file"),
        (["preview", "nowhere", "out.png"], "nowhere is no"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(arguments: list[str], told: str, run: Tool) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert told in err
    assert err.count("\n") == 1


def test_a_flag_that_a_command_does_not_take(packed: Path, run: Tool) -> None:
    status, _, err = run("info", packed, "--data.root", "x")
    assert status == 2
    assert "info takes no such flags" in err


@pytest.mark.parametrize("count", [0, -3])
def test_no_picture_is_drawn_of_none(packed: Path, tmp_path: Path, run: Tool, count: int) -> None:
    status, _, err = run("preview", packed, tmp_path / "a.png", "--count", count)
    assert status == 2
    assert f"--count: {count} is less than 1" in err


def test_help_names_the_commands(run: Tool) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert all(f"tools/shards.py {name} " in out for name in ("info", "verify", "pack", "export", "preview"))


@pytest.mark.parametrize(("colour", "mode"), [("rgb", "RGB"), ("luminance", "L")])
def test_pairs_are_verified_and_shown_side_by_side(tmp_path: Path, run: Tool, colour: str, mode: str) -> None:
    source = tmp_path / "photographs"
    source.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (34, 34, 3), np.uint8)
        Image.fromarray(pixels).save(source / f"{number}.png")
    data = PhotographPairs(str(tmp_path), str(source), colour=colour)
    data.prepare_data()
    assert run("verify", data.folder)[:2] == (0, "ok: 3 rows in 3 shards are what was packed\n")
    assert run("export", data.folder, tmp_path / "out")[0] == 0
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*.png")) == 3
    for number in range(3):
        (path,) = (tmp_path / "out").rglob(f"{number}.png/*.png")
        exported, original = Image.open(path), Image.open(source / f"{number}.png").convert(mode)
        assert (exported.mode, exported.size) == (mode, (66, 33))
        np.testing.assert_array_equal(np.asarray(exported)[:, 33:], np.asarray(original)[:33, :33])
    assert run("preview", data.folder, tmp_path / "preview.png")[0] == 0
    with h5py.File(next(data.folder.glob("val-*.h5")), "r+") as file:
        file["images"][0, 5, 5, 1] += 1
    assert "row 0 does not match its checksum" in run("verify", data.folder)[1]
