"""Packing that is killed: a few of the kills that the benchmark makes by the thousand."""

from pathlib import Path

import pytest

from benchmarks.kill_packing import kills, pack_small, state
from datamodules.manifest import MANIFEST


def test_twenty_kills_leave_nothing_wrong() -> None:
    found = kills(20, seed=1)
    assert found.total() == 20


def test_a_set_that_is_wrong_is_seen(tmp_path: Path) -> None:
    pack_small(tmp_path / "set", "jpeg", seed=1)
    whole = {"new": (tmp_path / "set" / MANIFEST).read_bytes()}
    assert state(tmp_path / "set", whole) == "new"
    assert state(tmp_path / "other", whole) == "none"
    with pytest.raises(AssertionError, match="something else than was packed"):
        state(tmp_path / "set", {"new": b"another"})
    (tmp_path / "set" / "statistics.h5").unlink()
    with pytest.raises(AssertionError, match="that opens is wrong"):
        state(tmp_path / "set", whole)
