"""Unpack an archive that may be damaged or do harm."""

import errno
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

GROWTH, MARGIN, MEMBERS = 20, 2**24, 1_000_000  # pictures are compressed already: more is no data set
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, ValueError, RuntimeError, OSError)


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar (of any compression) or zip archive into ``folder``, which is made by it, whole or not at all.

    Raises:
        FileExistsError: the folder is there.
        ValueError: the archive is damaged, would write outside the folder, holds links or devices or two files of the
            same name, or would fill the disk: it has more than a million members, or unpacks to more than 20 times its
            size.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is already there; delete it to unpack {archive.name} anew")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if tarfile.is_tarfile(archive):
            _extract_tar(archive, partial)
        else:
            _extract_zip(archive, partial)
        partial.rename(folder)
    except DAMAGE as error:
        # bz2 and gzip have no number; a place before the beginning of the file, which zip's directory names, has EINVAL
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the disk
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{archive} cannot be unpacked ({reason}); delete it and download it again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Contents:
    """What an archive says that it holds, looked at member by member before anything of a member is written."""

    def __init__(self, archive: Path) -> None:
        self.most = GROWTH * archive.stat().st_size + MARGIN
        self.bytes = 0
        self.names: dict[str, bool] = {}  # and whether it is a folder

    def admit(self, name: str, size: int, is_folder: bool) -> None:
        """Refuse a member that takes too much, or the place of another; some systems do not tell a from A."""
        self.bytes += size
        if self.bytes > self.most or len(self.names) >= MEMBERS:
            raise ValueError(f"it is a bomb: it unpacks to more than {self.most / 1e6:,.0f} MB or {MEMBERS:,} members")
        path = PurePosixPath(name.casefold().lstrip("/"))
        if ".." in path.parts:
            raise ValueError(f"{name} would leave the folder")
        folders = [*path.parents, path] if is_folder else path.parents
        clashes = [folder for folder in folders if not self.names.setdefault(str(folder), True)]
        if clashes or (not is_folder and str(path) in self.names):
            raise ValueError(f"{name} has the name of another member")
        self.names[str(path)] = is_folder


def _extract_tar(archive: Path, folder: Path) -> None:
    contents = _Contents(archive)

    def files_and_folders(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
        if not (member.isfile() or member.isdir()):
            raise ValueError(f"{member.name} is neither a file nor a folder")
        contents.admit(member.name, member.size, member.isdir())
        return tarfile.data_filter(member, path)

    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter=files_and_folders)
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # tarfile itself accepts that
            raise ValueError("it ends too early")
        while tar.fileobj.read(2**20):  # the checksum of a compressed archive comes last
            pass


def _extract_zip(archive: Path, folder: Path) -> None:
    contents = _Contents(archive)
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            kind = (member.external_attr >> 16) & 0o170000
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{member.filename} is neither a file nor a folder")
            if not (folder / member.filename).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{member.filename} would leave the folder")
            contents.admit(member.filename, member.file_size, member.is_dir())
        file.extractall(folder)
