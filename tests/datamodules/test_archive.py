"""Archives that are whole, damaged, or try to do harm."""

import errno
import gzip
import io
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import datamodules.archive
from datamodules.archive import extract

RANDOM = random.Random(0)
FILES = {f"images/{name}.bin": RANDOM.randbytes(50_000) for name in ("one", "two")} | {"readme.txt": b"hello"}
FORMATS = ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"]


def make_archive(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        compression = path.suffix.removeprefix(".").removeprefix("tar")
        with tarfile.open(path, f"w:{compression}") as archive:
            for name, content in files.items():
                add(archive, name, content)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", type: bytes = tarfile.REGTYPE, to: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), type, to
    archive.addfile(member, io.BytesIO(content))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ending", FORMATS)
def test_an_archive_is_unpacked(tmp_path: Path, ending: str) -> None:
    archive = make_archive(tmp_path / f"set.{ending}", FILES)
    extract(archive, tmp_path / "raw" / "set")
    assert contents(tmp_path / "raw" / "set") == FILES
    assert os.listdir(tmp_path / "raw") == ["set"]


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = make_archive(tmp_path / "inner.zip", FILES).read_bytes()
    extract(make_archive(tmp_path / "set.tar", {"inner.zip": inner}), tmp_path / "set")
    assert contents(tmp_path / "set") == {"inner.zip": inner}


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"set is already there.*delete"):
        extract(make_archive(tmp_path / "a.tar", FILES), tmp_path / "set")
    assert contents(tmp_path / "set") == {"mine.txt": b"precious"}


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("name", ["../evil", "images/../../evil"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, ending: str, name: str) -> None:
    archive = make_archive(tmp_path / f"set.{ending}", {"good.txt": b"good", name: b"evil"})
    with pytest.raises(ValueError, match=r"set\.(tar|zip).*evil"):
        extract(archive, tmp_path / "raw" / "set")
    assert list(tmp_path.rglob("evil")) == []
    assert os.listdir(tmp_path / "raw") == []


@pytest.mark.parametrize("ending", FORMATS)
def test_an_absolute_path_stays_inside(tmp_path: Path, ending: str) -> None:
    victim, folder = tmp_path / "victim" / "evil", tmp_path / "raw" / "set"
    archive = make_archive(tmp_path / f"set.{ending}", {str(victim): b"evil"})
    if ending == "zip":
        with pytest.raises(ValueError, match=r"set\.zip"):
            extract(archive, folder)
    else:  # tarfile takes the leading slash away
        extract(archive, folder)
        assert contents(folder) == {str(victim).lstrip("/"): b"evil"}
    assert not victim.exists()


@pytest.mark.parametrize("type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("to", ["../../victim", "/etc", "images"])
def test_a_tar_holds_nothing_but_files_and_folders(tmp_path: Path, type: bytes, to: str) -> None:
    (tmp_path / "victim").mkdir()
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        add(archive, "images", type=tarfile.DIRTYPE)
        add(archive, "door", type=type, to=to)
        add(archive, "door/evil", b"evil")
    with pytest.raises(ValueError, match=r"set\.tar.*door"):
        extract(tmp_path / "set.tar", tmp_path / "raw" / "set")
    assert list(tmp_path.rglob("evil")) == []
    assert os.listdir(tmp_path / "raw") == []


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.6, 0.9])
def test_a_truncated_archive_is_named(tmp_path: Path, ending: str, share: float) -> None:
    archive = make_archive(tmp_path / f"set.{ending}", FILES)
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    with pytest.raises(ValueError, match=r"set\.(tar|zip)") as raised:
        extract(archive, tmp_path / "raw" / "set")
    assert "\n" not in str(raised.value)
    assert os.listdir(tmp_path / "raw") == []


@pytest.mark.parametrize("ending", ["tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_a_damaged_archive_is_named(tmp_path: Path, ending: str) -> None:
    archive = make_archive(tmp_path / f"set.{ending}", FILES)
    damaged = bytearray(archive.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 5000] = b"\xff" * 5000
    archive.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"set\.(tar|zip)"):
        extract(archive, tmp_path / "raw" / "set")
    assert os.listdir(tmp_path / "raw") == []


@pytest.mark.parametrize("ending", FORMATS)
def test_a_single_wrong_bit_gives_files_or_a_clear_error(tmp_path: Path, ending: str) -> None:
    archive = make_archive(tmp_path / f"set.{ending}", FILES)
    whole, rng, refused = archive.read_bytes(), random.Random(ending), 0
    for number in range(60):
        damaged = bytearray(whole)
        place = rng.randrange(len(whole) - 260, len(whole)) if number % 3 else rng.randrange(len(whole))
        damaged[place] ^= 1 << rng.randrange(8)
        archive.write_bytes(damaged)
        try:
            extract(archive, tmp_path / "raw" / f"set{number}")
        except ValueError as error:
            assert archive.name in str(error)
            refused += 1
        else:  # a plain tar has no checksum, and a zip none of its directory
            assert ending in ("tar", "zip") or contents(tmp_path / "raw" / f"set{number}") == FILES
    assert refused > 30 or ending == "tar"


@pytest.mark.parametrize("reason", [OSError("Invalid data stream"), gzip.BadGzipFile("CRC check failed")])
def test_damage_that_looks_like_an_error_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: OSError
) -> None:
    """The modules bz2 and gzip raise OSError, without a number."""

    def damaged(*args: object, **options: object) -> None:
        raise reason

    archive = make_archive(tmp_path / "set.tar", FILES)
    monkeypatch.setattr("tarfile.copyfileobj", damaged)
    with pytest.raises(ValueError, match=str(reason)):
        extract(archive, tmp_path / "raw" / "set")


def test_a_missing_archive_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        extract(tmp_path / "set.tar", tmp_path / "set")


def test_a_full_disk_does_not_blame_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = make_archive(tmp_path / "set.tar", FILES)
    monkeypatch.setattr("tarfile.copyfileobj", full)
    with pytest.raises(OSError) as raised:
        extract(archive, tmp_path / "raw" / "set")
    assert raised.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path / "raw") == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_extraction_leaves_no_folder_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    archive, folder = make_archive(tmp_path / "set.tar.gz", FILES), tmp_path / "raw" / "set"
    # The file runs by itself: importing the package would take seconds.
    program = """
import os, pathlib, runpy, signal, sys, tarfile
module, archive, folder = sys.argv[1:]
write = tarfile.TarFile.makefile
def write_one_and_die(self, member, path):
    if member.name == "images/two.bin":
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, member, path)
tarfile.TarFile.makefile = write_one_and_die
runpy.run_path(module)["extract"](pathlib.Path(archive), pathlib.Path(folder))
"""
    command = [sys.executable, "-c", program, datamodules.archive.__file__, str(archive), str(folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not folder.exists()
    assert [path.name for path in tmp_path.rglob("one.bin")] == ["one.bin"]  # it had begun
    extract(archive, folder)
    assert contents(folder) == FILES
    assert os.listdir(tmp_path / "raw") == ["set"]


def test_a_zip_holds_nothing_but_files_and_folders(tmp_path: Path) -> None:
    for number, kind in enumerate((stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)):
        door, archive = zipfile.ZipInfo("door"), tmp_path / f"{number}.zip"
        door.external_attr = (kind | 0o777) << 16
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(door, "/etc")
        with pytest.raises(ValueError, match=r"door is neither a file nor a folder"):
            extract(archive, tmp_path / "set")
        assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(
    "first", ["images/one.bin", "images/ONE.bin", "./images/one.bin", "images", "Images/One.bin/x"]
)
def test_no_member_takes_the_place_of_another(tmp_path: Path, ending: str, first: str) -> None:
    archive = tmp_path / f"set.{ending}"
    members = ((first, b"checked"), ("images/one.bin", b"evil"))
    if ending == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            for name, content in members:
                file.writestr(zipfile.ZipInfo(name), content)
    else:
        with tarfile.open(archive, f"w:{ending.removeprefix('tar').removeprefix('.')}") as file:
            for name, content in members:
                add(file, name, content)
    with pytest.raises(ValueError, match=r"set\.(tar|zip).*images/one\.bin has the name of another"):
        extract(archive, tmp_path / "raw" / "set")
    assert os.listdir(tmp_path / "raw") == []


def test_a_folder_may_be_named_twice(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name in (".", "images", "images"):
            add(archive, name, type=tarfile.DIRTYPE)
        add(archive, "images/one.bin", b"1")
    extract(tmp_path / "set.tar", tmp_path / "set")
    assert contents(tmp_path / "set") == {"images/one.bin": b"1"}


@pytest.mark.parametrize("ending", ["tar.gz", "tar.bz2", "tar.xz", "zip"])
@pytest.mark.parametrize("files", [1, 10])
def test_a_bomb_is_not_unpacked(tmp_path: Path, ending: str, files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 MB of nothing in a few kilobytes: at most the margin reaches the disk."""
    archive = make_archive(tmp_path / f"set.{ending}", {f"{n}.bin": bytes(40_000_000 // files) for n in range(files)})
    assert archive.stat().st_size < 100_000
    written = []
    monkeypatch.setattr("datamodules.archive.shutil.rmtree", lambda path, **_: written.append(size_of(path)))
    with pytest.raises(ValueError, match=r"set\.\S+ cannot be unpacked \(it is a bomb: .* 1[678] MB"):
        extract(archive, tmp_path / "raw" / "set")
    assert max(written) < 2**24 + 20 * archive.stat().st_size
    assert not (tmp_path / "raw" / "set").exists()


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_sparse_file_of_a_terabyte_is_a_bomb(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        member = tarfile.TarInfo("hole")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40)}
        member.size = 512
        archive.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))
    with pytest.raises(ValueError, match="bomb"):
        extract(tmp_path / "set.tar", tmp_path / "set")


def test_millions_of_members_are_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.archive.MEMBERS", 50)
    extract(make_archive(tmp_path / "few.zip", {str(number): b"" for number in range(40)}), tmp_path / "few")
    for ending in ("zip", "tar"):
        with pytest.raises(ValueError, match="bomb"):
            extract(make_archive(tmp_path / f"many.{ending}", {str(n): b"" for n in range(60)}), tmp_path / "many")
    assert not (tmp_path / "many").exists()


def test_a_member_that_lies_about_its_size(tmp_path: Path) -> None:
    """The directory of a zip says 10 bytes; what unpacks is no more than it says, and is refused by its checksum."""
    archive = make_archive(tmp_path / "set.zip", {"a.bin": bytes(1_000_000)})
    content = archive.read_bytes().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.zip cannot be unpacked"):
        extract(archive, tmp_path / "raw" / "set")
    assert os.listdir(tmp_path / "raw") == []
