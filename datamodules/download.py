"""Download an official archive once, with checksum, resume and progress; unpack it safely."""

import hashlib
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from http.client import HTTPException, HTTPMessage
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

ATTEMPTS = 4
CHUNK = 2**18


def download(url: str, checksum: str, folder: Path, timeout: float = 30) -> Path:
    """The file at ``url``, in ``folder`` under its own name; a file that is there already is not fetched again.

    A download that was interrupted goes on where it stopped. Nothing carries the final name before its checksum was
    found right.

    Args:
        checksum: algorithm and hexadecimal digest, as ``sha256:0a1b...``.
        timeout: seconds to wait for the server.

    Raises:
        ConnectionError: it cannot be had.
        ValueError: its checksum is wrong, or the address is neither https nor on this machine.
    """
    _refuse_insecure(url)
    target = folder / PurePosixPath(urlsplit(url).path).name
    if target.exists() and digest(target, checksum) == checksum:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), BarColumn(), *columns) as progress:
        task = progress.add_task(target.name, total=None)
        for attempt in range(ATTEMPTS):
            try:
                _fetch(url, part, timeout, progress, task)
                break
            except (
                urllib.error.HTTPError,
                urllib.error.URLError,
                HTTPException,
                ConnectionError,
                TimeoutError,
            ) as error:
                if attempt == ATTEMPTS - 1 or _is_final(error):
                    reason = getattr(error, "reason", None) or error
                    raise ConnectionError(
                        f"{url} cannot be downloaded ({reason}); download it by hand, unpack it, and point source at it"
                    ) from error
                time.sleep(0.5 * 2**attempt)
    found = digest(part, checksum)
    if found != checksum:
        part.unlink()
        raise ValueError(
            f"{url} has the checksum {found} instead of {checksum}; try again, or download it by hand and "
            "point source at it"
        )
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    return target


def digest(path: Path, checksum: str) -> str:
    """Checksum of a file, by the algorithm that another checksum names."""
    algorithm = checksum.partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar (of any compression) or zip archive into ``folder``, which is made by it, whole or not at all.

    Raises:
        ValueError: the archive is damaged, or would write outside the folder.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, partial)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(partial, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError, OSError) as error:
        shutil.rmtree(partial)
        if isinstance(error, OSError) and error.errno is not None:  # a full disk is not the archive's fault
            raise
        raise ValueError(f"{archive} cannot be unpacked ({error}); delete it and run again") from error
    partial.rename(folder)


def _fetch(url: str, part: Path, timeout: float, progress: Progress, task: int) -> None:
    """Append to the partial file what it lacks."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = _opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing lies beyond what is here: the checksum decides
            raise
        return
    with response:
        if response.status != 206:
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        progress.update(task, completed=start, total=total)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                progress.advance(task, len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _is_final(error: Exception) -> bool:
    """Whether trying again is pointless: the server said no."""
    return isinstance(error, urllib.error.HTTPError) and error.code < 500


def _refuse_insecure(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")):
        raise ValueError(f"{url} is not an https address")


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never to an address that ``download`` itself would refuse."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """As the base class does, after a look at the address."""
        _refuse_insecure(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_SecureRedirects)


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
            if is_link or not (folder / member.filename).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{member.filename} would leave the folder")
        file.extractall(folder)
