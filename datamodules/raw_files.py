"""The raw files that a data set is made from: where they lie, and whether they are the published ones."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.download import has_checksum
from datamodules.lock import one_at_a_time
from datamodules.picture_files import entries_below


@dataclass(frozen=True)
class RawFiles:
    """Those of one data set, in a folder of the user's or where a download puts them.

    Args:
        dataset: its name.
        root: folder of the packed sets; downloads go to its subfolder ``raw``.
        source: the user's folder; None for the download.
        folder: name of the official download's folder; None where a package brings the pictures.
        proofs: files or folders in it, each of which proves that it is there.
        fetch: downloads the folder into the one it is given; None where there is nothing to download.
        published: checksums of the published files by their names; empty where they are not known.
    """

    dataset: str
    root: Path
    source: Path | None
    folder: str | None
    proofs: Sequence[str]
    fetch: Callable[[Path], None] | None
    published: Mapping[str, str]

    def find(self) -> Path | None:
        """Their folder, if it is there."""
        if self.folder is None:
            return self.root
        base = self.source or self.root / "raw" / self.folder
        places = (base, base / self.folder)
        return next((place for place in places if any((place / proof).exists() for proof in self.proofs)), None)

    def provide(self) -> Path:
        """Their folder; they are downloaded if need be.

        Raises:
            FileNotFoundError: they are not where ``source`` says, or there is nothing to download.
        """
        if self.source and not self.source.is_dir():
            raise FileNotFoundError(f"{self.source} is not a folder; source names that of the raw files")
        if raw := self.find():
            return raw
        if self.source or not self.fetch:
            raise FileNotFoundError(
                f"{self.source or self.root} does not hold {self.folder}/{' or '.join(self.proofs)}, which "
                f"{self.dataset} is made from; point source at its raw files"
                f"{', or leave it out to download them' * bool(self.fetch)}"
            )
        downloads = self.root / "raw"
        downloads.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(downloads / f".{self.folder}.lock", f"downloading {self.dataset}"):
            if not self.find():
                self.fetch(downloads)
        return self.find() or downloads / self.folder

    def fingerprint(self, raw: Path) -> str:
        """SHA-256 of the names and sizes of all visible files: cheap, and different for other raw files."""
        if self.folder is None:
            return ""
        start = len(os.path.join(raw, ""))
        files = sorted((entry.path[start:].replace(os.sep, "/"), entry.stat().st_size) for entry in entries_below(raw))
        return hashlib.sha256(repr(files).encode()).hexdigest()

    def are_published(self, raw: Path) -> bool | None:
        """Whether they are the published ones; None where those are not known."""
        if not self.published:
            return None
        return all(has_checksum(raw / file, checksum) for file, checksum in self.published.items())
