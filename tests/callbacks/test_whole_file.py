"""Files that are whole or not there."""

import os
from pathlib import Path

import pytest

from callbacks.whole_file import write_json


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flushed = tmp_path / "a.json", []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append((os.fstat(file).st_ino, path.exists())))
    write_json([1], path)
    assert flushed == [(path.stat().st_ino, False)]
