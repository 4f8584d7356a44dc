"""Features of pictures in one HDF5 file: written batch by batch, so that memory stays flat and a kill costs one batch.

- ``features`` float16 or float32 ``(N, D)``, contiguous; ``labels`` int64 ``(N,)``; ``label_names`` text ``(C,)``
- ``split`` uint8 ``(N,)``, the place of a row's split in ``split_names`` text ``(S,)``
- ``rows_done`` int64 ``()``: rows from there on are not written yet
- attributes: how the features were made
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

Made = dict[str, str | int]

NOTES = ("commit", "weights")  # may differ in a file that is continued: weights are known by their checksum


@dataclass(frozen=True)
class FeatureTable:
    """All of a feature file but the features.

    Args:
        shape: rows N and values D of each.
        dtype: of the stored features, ``float16`` or ``float32``.
        labels: int64 ``(N,)``.
        label_names: of the C classes.
        split: uint8 ``(N,)``, places in ``split_names``.
        split_names: like ``train``.
        made: how the features were made.
        done: rows that are written.
    """

    shape: tuple[int, int]
    dtype: str
    labels: np.ndarray
    label_names: list[str]
    split: np.ndarray
    split_names: list[str]
    made: Made
    done: int = 0

    @classmethod
    def load(cls, path: Path) -> "FeatureTable":
        """Read it from a file, finished or not.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or holds something else.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file; tools/extract_features.py makes feature files")
        try:
            with h5py.File(path, "r", locking=False) as file:
                names = {name: [str(text) for text in file[name].asstr()[:]] for name in ("label_names", "split_names")}
                table = cls(
                    shape=file["features"].shape,
                    dtype=file["features"].dtype.name,
                    labels=file["labels"][:],
                    split=file["split"][:],
                    made={name: v if isinstance(v, str) else int(v) for name, v in file.attrs.items()},
                    done=int(file["rows_done"][()]),
                    **names,
                )
            rows, _ = table.shape
            if not (table.labels.shape == table.split.shape == (rows,) and 0 <= table.done <= rows):
                raise ValueError("its parts differ in length")
            if rows and not (
                0 <= table.labels.min() <= table.labels.max() < len(table.label_names)
                and table.split.max() < len(table.split_names)
            ):
                raise ValueError("a label or a split has no name")
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"{path} is damaged, or is no feature file ({error}); delete it and extract the features anew"
            ) from error
        return table

    def rows(self, splits: Sequence[str]) -> np.ndarray:
        """Rows int64 ``(n,)`` of these splits, in stored order.

        Raises:
            ValueError: a split is not there.
        """
        for name in splits:
            if name not in self.split_names:
                raise ValueError(
                    f"there is no split {name!r} among the features; there are {', '.join(self.split_names)}"
                )
        return np.flatnonzero(np.isin(self.split, [self.split_names.index(name) for name in splits]))


def create(path: Path, table: FeatureTable) -> None:
    """Lay out a file without any features; it gets its name once the layout is on disk."""
    partial = path.with_name(path.name + ".partial")
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # afterwards only raw values change, never the file's structure
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    text = h5py.string_dtype()
    with h5py.File(partial, "w") as file:
        file.create_dataset("rows_done", data=np.int64(0))
        file.create_dataset("labels", data=table.labels.astype(np.int64))
        file.create_dataset("label_names", data=table.label_names, dtype=text)
        file.create_dataset("split", data=table.split.astype(np.uint8))
        file.create_dataset("split_names", data=table.split_names, dtype=text)
        file.create_dataset("features", table.shape, table.dtype, dcpl=early)
        file.attrs.update(table.made)
        _to_disk(file)
    os.replace(partial, path)


def require_same_settings(path: Path, table: FeatureTable) -> None:
    """Refuse to continue a file that was begun otherwise.

    Raises:
        ValueError: the settings or the rows differ; names what does.
    """
    found = FeatureTable.load(path)
    settings = [name for name in (table.made | found.made) if name not in NOTES]
    differing = [
        f"{name} {found.made.get(name)} there and {table.made.get(name)} here"
        for name in settings
        if found.made.get(name) != table.made.get(name)
    ]
    if not differing and (
        (found.shape, found.dtype, found.label_names, found.split_names)
        != (table.shape, table.dtype, table.label_names, table.split_names)
        or not np.array_equal(found.labels, table.labels)
        or not np.array_equal(found.split, table.split)
    ):
        differing = [f"{found.dtype} {found.shape} there and {table.dtype} {table.shape} here, or other rows"]
    if differing:
        raise ValueError(
            f"{path} holds features made otherwise: {'; '.join(differing[:3])}; delete it or name another file"
        )


class FeatureWriter:
    """Appends batches to a file; rows count only once they are on disk.

    Args:
        path: made by ``create``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = h5py.File(path, "r+")
        self.done = int(self._file["rows_done"][()])

    def append(self, features: np.ndarray) -> None:
        """Write the next rows, float32 ``(B, D)``.

        Raises:
            ValueError: a value is not finite, or too large for float16.
        """
        stored = self._file["features"]
        with np.errstate(over="ignore"):
            values = features.astype(stored.dtype)
        if not np.isfinite(values).all():
            large = np.isfinite(features).all()
            remedy = "exceeds float16; take --dtype float32" if large else "is not finite; look at the weights"
            raise ValueError(f"a feature of the rows from {self.done} on {remedy}")
        stored[self.done : self.done + len(values)] = values
        _to_disk(self._file)
        self.done += len(values)
        self._file["rows_done"][()] = self.done
        self._file.flush()

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class FeatureReader:
    """Features of a finished file, by rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is not finished.
    """

    def __init__(self, path: Path) -> None:
        self.table = FeatureTable.load(path)
        self.path = path
        rows, _ = self.table.shape
        if self.table.done < rows:
            raise ValueError(
                f"{path} is not finished: {self.table.done} of {rows} rows; give its tools/extract_features.py again"
            )

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Features float32 ``(n, D)`` of rising rows; the rows between the first and the last are read as well."""
        first = int(rows[0])
        with h5py.File(self.path, "r", locking=False) as file:
            block = file["features"][first : int(rows[-1]) + 1]
        features = (block if len(block) == len(rows) else block[rows - first]).astype(np.float32, copy=False)
        if not np.isfinite(features).all():
            raise ValueError(
                f"{self.path} is damaged: a feature is not finite; delete it and extract the features anew"
            )
        return features


def _to_disk(file: h5py.File) -> None:
    file.flush()
    os.fsync(file.id.get_vfd_handle())
