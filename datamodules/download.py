"""Download an official archive once, with checksum, resume and progress."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException, HTTPMessage
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

ATTEMPTS = 4
TIMEOUT = 30  # seconds to wait for the server
DIGITS = {"md5": 32, "sha256": 64, "sha512": 128}
CHUNK = 2**18
REMEDY = "download it by hand, unpack it, and pass source=FOLDER"


def download(url: str, checksum: str, folder: Path) -> Path:
    """The file at ``url``, in ``folder`` under its own name; one that is there already is not fetched again.

    A download that was interrupted goes on where it stopped. Nothing carries the final name before its checksum was
    found right.

    Args:
        checksum: algorithm and hexadecimal digest, as ``sha256:0a1b...``.

    Raises:
        ConnectionError: it cannot be had.
        ValueError: its checksum is wrong or not given, or the address is neither https nor on this machine.
    """
    if not _is_secure(url):
        raise ValueError(f"{url} is not an https address")
    checksum = checksum.lower()
    algorithm, _, digest = checksum.partition(":")
    if len(digest) != DIGITS.get(algorithm):
        raise ValueError(f"{checksum!r} is no checksum to compare {url} with; it is written like sha256:0a1b...")
    target = folder / PurePosixPath(urlsplit(url).path).name
    if target.exists() and has_checksum(target, checksum):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    _fetch(url, part)
    if resumed and not has_checksum(part, checksum):  # what was there belonged to another file
        part.unlink()
        _fetch(url, part)
    found = _digest(part, checksum)
    if found != checksum:
        part.unlink()
        raise ValueError(f"{url} has the checksum {found} instead of {checksum}; try again, or {REMEDY}")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    return target


def has_checksum(path: Path, checksum: str) -> bool:
    """Whether a file has a checksum, written as for ``download``."""
    return _digest(path, checksum) == checksum


def _digest(path: Path, checksum: str) -> str:
    """Checksum of a file, by the algorithm that another one names."""
    algorithm = checksum.partition(":")[0]
    begin = partial(hashlib.new, algorithm, usedforsecurity=False)  # or hardened systems refuse MD5
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, begin).hexdigest()}"


def _fetch(url: str, part: Path) -> None:
    """Complete the partial file, in a few attempts."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(part.stem, total=None)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _append(url, part, progress, task)
            except _LostError as error:
                if error.final or attempt == ATTEMPTS:
                    raise ConnectionError(f"{url} cannot be downloaded ({error}); {REMEDY}") from error
            time.sleep(2**attempt / 4)


def _append(url: str, part: Path, progress: Progress, task: TaskID) -> None:
    """Append to the partial file what it lacks."""
    start = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with _network():
            response = build_opener(_SecureRedirects).open(request, timeout=TIMEOUT)
    except _LostError as error:
        if start and error.code == 416:  # nothing lies beyond what is here: the checksum decides
            return
        raise
    with response:
        start = start if response.status == 206 else 0  # a server without ranges starts over
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        progress.update(task, completed=start, total=total)
        with part.open("ab" if start else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                progress.advance(task, len(chunk))
    if total is not None and part.stat().st_size < total:
        raise _LostError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _read(response: IO[bytes]) -> bytes:
    with _network():
        return response.read(CHUNK)


class _LostError(Exception):
    """The network failed; ``final`` says that trying again is pointless."""

    def __init__(self, reason: object, code: int = 0, final: bool = False) -> None:
        super().__init__(str(reason))
        self.code, self.final = code, final


@contextmanager
def _network() -> Iterator[None]:
    """Tell errors of the network from those of the disk, which are OSErrors too."""
    try:
        yield
    except HTTPError as error:
        raise _LostError(error, error.code, final=error.code < 500) from error
    except _RedirectError as error:
        raise _LostError(error.reason, final=True) from error
    except (OSError, HTTPException) as error:
        raise _LostError(getattr(error, "reason", None) or error) from error


def _is_secure(url: str) -> bool:
    """Whether an address is https, or on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost"))


class _RedirectError(URLError):
    """A redirect to an address that may not be asked."""


class _SecureRedirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if not _is_secure(newurl) or (req.type == "https" and not newurl.startswith("https:")):
            raise _RedirectError(f"it redirects to {newurl}, which is not an https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
