"""Picture files: what is found, what is read, and how it looks then."""

import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from datamodules.picture_files import files_below, fit, is_picture, loaded
from datamodules.raw_files import RawFiles

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def test_fit_keeps_the_centre_of_the_longer_side() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    np.testing.assert_array_equal(fit(Image.fromarray(wide), 10), np.full((10, 10, 3), 200))
    np.testing.assert_array_equal(fit(Image.fromarray(wide.transpose(1, 0, 2)), 10), np.full((10, 10, 3), 200))


def test_fit_is_bicubic_and_antialiased() -> None:
    """A kernel (Keys 1981, a = -0.5) of twice its width, at an edge between black and 200: it overshoots the bright."""
    edge = np.zeros((12, 12, 3), np.uint8)
    edge[:, 6:] = 200
    row = [0, 0, 13, 187, 202, 200]  # 13.3 = 200 (0.2266 - 0.0703 - 0.0234) / 2
    np.testing.assert_array_equal(fit(Image.fromarray(edge), 6), np.broadcast_to(np.array(row)[:, None], (6, 6, 3)))


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, PIXELS),
        (2, PIXELS[:, ::-1]),
        (3, PIXELS[::-1, ::-1]),
        (4, PIXELS[::-1]),
        (5, PIXELS.transpose(1, 0, 2)),
        (6, np.rot90(PIXELS)),
        (7, PIXELS[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(PIXELS, -1)),
    ],
)
def test_pictures_are_turned_as_exif_says(tmp_path: Path, orientation: int, stored: np.ndarray, ending: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a.{ending}", exif=exif)
    np.testing.assert_array_equal(np.asarray(loaded(tmp_path / f"a.{ending}")), PIXELS)


def test_odd_exif_does_not_make_a_whole_picture_unreadable(tmp_path: Path) -> None:
    """X resolution as text: cameras and editors write such things."""
    entries = [(0x0112, 3, 1, 6), (0x011A, 2, 3, int.from_bytes(b"72\0", "little"))]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + b"\0\0\0\0"
    Image.fromarray(PIXELS).save(tmp_path / "odd.jpg", exif=exif)
    assert loaded(tmp_path / "odd.jpg").size == (12, 20)  # turned


def test_transparent_pictures_lie_on_white() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)  # black ink on nothing
    pixels[2:6, 2:6, 3] = 255
    expected = np.full((8, 8, 3), 255)
    expected[2:6, 2:6] = 0
    for mode in ("RGBA", "LA"):
        np.testing.assert_array_equal(fit(Image.fromarray(pixels).convert(mode), None), expected)
    palette = Image.fromarray(pixels[..., 3] // 255, "P")
    palette.putpalette([9, 9, 9, 0, 0, 0])
    palette.info["transparency"] = 0
    np.testing.assert_array_equal(fit(palette, None), expected)
    pixels[..., :3], pixels[..., 3] = 100, 255
    np.testing.assert_array_equal(fit(Image.fromarray(pixels), None), pixels[..., :3])


def test_sixteen_bits_become_the_upper_eight(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0x1234, np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(fit(loaded(tmp_path / "deep.png"), None), 0x12)
    with pytest.raises(ValueError, match="floating-point"):
        fit(Image.new("F", (8, 8)), None)
    with pytest.raises(ValueError, match="more than 16 bits"):
        fit(Image.new("I", (8, 8), -1), None)
    with pytest.raises(ValueError, match="more than 16 bits"):
        fit(Image.new("I", (8, 8), 65536), None)


@pytest.mark.parametrize(("values", "shown"), [([0, 7, 255], [0, 7, 255]), ([0, 7, 256], [0, 0, 1])])
def test_sixteen_bits_of_which_eight_are_used_stay_as_they_are(values: list[int], shown: list[int]) -> None:
    for kind in (np.uint16, np.int32):
        grey = fit(Image.fromarray(np.array([values], kind)), None)
        assert grey.tolist() == [[[value] * 3 for value in shown]]


def test_more_than_eight_bits_are_refused_where_they_would_be_lost(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0x1234, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "deep.ppm").write_bytes(b"P6 2 1 65535\n" + bytes(12))
    for name in ("deep.png", "deep.ppm"):
        with pytest.raises(ValueError, match="more than 8 bits"):
            loaded(tmp_path / name, eight_bits=True)
    (tmp_path / "flat.ppm").write_bytes(b"P6 2 1 100\n" + bytes(6))
    header = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 66) + struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    (tmp_path / "565.bmp").write_bytes(header + struct.pack("<III", 0xF800, 0x7E0, 0x1F) + b"\x00\xf8\x1f\x00")
    assert loaded(tmp_path / "flat.ppm", eight_bits=True).size == (2, 1)
    assert np.asarray(loaded(tmp_path / "565.bmp", eight_bits=True)).tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("ending", sorted({".jpg", ".png", ".gif", ".webp", ".tiff", ".bmp", ".avif", ".dds", ".jp2"}))
def test_whatever_a_damaged_file_does_to_a_decoder_is_said_plainly(tmp_path: Path, ending: str) -> None:
    whole = io.BytesIO()
    try:
        Image.fromarray(PIXELS).resize((64, 64)).save(whole, Image.registered_extensions()[ending])
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {ending}")
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = np.frombuffer(whole.getvalue(), np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 4)] = rng.integers(0, 256, 4)
        try:
            fit(loaded(io.BytesIO(damaged[: rng.integers(1, len(damaged) + 1)].tobytes())), 8)
        except ValueError as error:
            assert str(error)


def test_a_picture_that_has_lost_its_palette_is_damaged(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(PIXELS).convert("P").save(whole, "png")
    before, _, after = whole.getvalue().partition(b"PLTE")
    length = struct.unpack(">I", before[-4:])[0]
    (tmp_path / "lost.png").write_bytes(before[:-4] + after[length + 4 :])
    with pytest.raises(ValueError, match="its palette is missing"):
        loaded(tmp_path / "lost.png")


def test_memory_that_runs_out_is_not_blamed_on_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")

    def refused(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", refused)
    with pytest.raises(MemoryError):
        loaded(tmp_path / "a.png")


def test_hidden_files_and_what_desktops_leave_are_passed_over(tmp_path: Path) -> None:
    names = [
        "a/1.png",
        "a/paper.pdf",
        "a/3d.mpo",
        "a/.ipynb_checkpoints/1-checkpoint.png",
        "a/._1.png",
        "a/Thumbs.db",
        ".DS_Store",
        "b/notes.txt",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = files_below(tmp_path)
    shown = ["a/1.png", "a/3d.mpo", "a/paper.pdf", "b/notes.txt"]
    assert [path.relative_to(tmp_path).as_posix() for path in found] == shown
    assert [path.name for path in filter(is_picture, found)] == ["1.png", "3d.mpo"]


def test_links_to_folders_are_not_followed_but_for_the_folder_itself(tmp_path: Path) -> None:
    for name in ("pictures/1.png", "elsewhere/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "pictures/a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    assert [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path / "link")] == ["link/1.png"]


def test_links_that_lead_nowhere_hide_nothing_else(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "none.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "0.png")
    assert [path.name for path in files_below(tmp_path)] == [*(f"{number}.png" for number in range(5)), "link.png"]


def test_raw_files_are_told_by_their_names_and_sizes(tmp_path: Path) -> None:
    for name, size in (("b/2.png", 3), ("a-b/1.png", 2), ("a/1.png", 1), ("a/.hidden", 9)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    files = sorted([("a-b/1.png", 2), ("a/1.png", 1), ("b/2.png", 3)])
    found = RawFiles("Any", tmp_path, tmp_path, "", ["."], None, {}).fingerprint(tmp_path)
    assert found == hashlib.sha256(repr(files).encode()).hexdigest()
