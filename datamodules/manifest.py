"""The manifest of a packed data set, and the proof that its files are what was packed (see docs/data_format.md)."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
MANIFEST_SHA256 = "manifest.sha256"
VERIFIED = ".verified.json"
FILES = "files.json"


@dataclass(frozen=True)
class Shard:
    """One HDF5 file: its name in the set's folder, its rows, its size, and the SHA-256 of its bytes."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a packed set holds, from which pictures and by which recipe it was made.

    ``channel_mean`` and ``channel_std`` are of the training split on the 0..255 scale; the mean image lies beside the
    shards, in the file that ``statistics`` names. ``skipped`` are the files of pictures that could not be read.
    ``official`` says whether the raw files are the published ones; None where that is not known. ``row_files`` names
    the raw file of each row; None where pictures are no files, and in sets of before.
    """

    format_version: int
    dataset: str
    classes: list[str]
    recipe: dict[str, Any]
    source_files: str
    source_sha256: str
    channel_mean: list[float]
    channel_std: list[float]
    statistics: Shard
    splits: dict[str, list[Shard]]
    skipped: list[str]
    official: bool | None = None
    row_files: Shard | None = None

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read the manifest of a set.

        Raises:
            ValueError: the file is no manifest, or of another format version.
        """
        path = folder / MANIFEST
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            version = fields["format_version"]
            if version != FORMAT_VERSION:
                raise ValueError(
                    f"{path} has format version {version}, this program reads {FORMAT_VERSION}; {remedy(folder)}"
                )
            fields["statistics"] = Shard(**fields["statistics"])
            if fields.get("row_files"):
                fields["row_files"] = Shard(**fields["row_files"])
            fields["splits"] = {split: [Shard(**s) for s in shards] for split, shards in fields["splits"].items()}
            return cls(**fields)
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a manifest ({error}); {remedy(folder)}") from error

    def dump(self) -> str:
        """The manifest as JSON text."""
        return json.dumps(asdict(self), indent=1)

    def files(self) -> list[Shard]:
        """Every file that belongs to the set, the manifest aside."""
        others = [self.row_files] if self.row_files else []
        return [self.statistics, *others, *(shard for shards in self.splits.values() for shard in shards)]


def remedy(folder: Path) -> str:
    """What to do about a set that cannot be read."""
    return f"delete the folder {folder} and run again to pack it anew"


def verify(folder: Path, manifest: Manifest) -> None:
    """Prove that every file of a set is what was packed.

    A checksum is computed once; size and modification time stand for it in later runs, so that an untouched set costs
    nothing to check.

    Raises:
        ValueError: a file is missing, cut short or edited.
    """
    if (finding := manifest_finding(folder)) is not None:
        raise ValueError(f"{finding}; {remedy(folder)}")
    try:
        verified = json.loads((folder / VERIFIED).read_text())
    except (OSError, ValueError):
        verified = {}

    def check(shard: Shard) -> tuple[str, list[int | str]]:
        path = folder / shard.file
        found = stamp(path, shard) if path.is_file() else []  # before its bytes are read
        if finding := file_finding(path, shard, proved=verified.get(shard.file) == found):
            raise ValueError(f"{finding}; {remedy(folder)}")
        return shard.file, found

    with ThreadPoolExecutor() as threads:  # hashlib releases the GIL
        stamps = dict(threads.map(check, manifest.files()))
    if stamps != verified:
        with suppress(OSError):  # a read-only set is verified anew by every run
            (folder / VERIFIED).write_text(json.dumps(stamps))


def stamp(path: Path, packed: Shard) -> list[int | str]:
    """What stands for a file that was proved: size, modification time and checksum."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, packed.sha256]


def file_finding(path: Path, packed: Shard, proved: bool = False) -> str | None:
    """What is wrong with a file of a set, if anything is; of one that is proved the checksum is not computed."""
    if not path.is_file():
        return f"{path} is missing"
    if (size := path.stat().st_size) != packed.bytes:
        return f"{path} has {size} bytes instead of {packed.bytes}"
    if not proved and sha256(path) != packed.sha256:
        return f"{path} was changed since it was packed (its checksum differs)"
    return None


def manifest_finding(folder: Path) -> str | None:
    """What is wrong with the manifest's bytes, if anything is."""
    path = folder / MANIFEST_SHA256
    try:
        expected = path.read_bytes()
    except OSError:
        return f"{path} is missing"
    if expected != checksum_line(folder / MANIFEST):
        return f"{folder / MANIFEST} was changed since it was packed (its checksum is not that in {path.name})"
    return None


def checksum_line(path: Path) -> bytes:
    """A file's SHA-256 and name, as the command ``sha256sum`` prints them."""
    return f"{sha256(path)}  {path.name}\n".encode()


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
