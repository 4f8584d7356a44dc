"""Two runs that need the same packed set at once."""

import os
import signal

import pytest
from filelock import FileLock

from datamodules import Digits

FRESH = ("--data.root", "fresh", "--trainer.max_epochs", "1")


def sets(place) -> list[str]:
    return sorted(path.name for path in (place.folder / "fresh").iterdir())


def test_who_waits_says_for_what(place) -> None:
    folder = Digits(root="fresh").folder
    (place.folder / "fresh").mkdir()
    with FileLock(place.folder / "fresh" / f".{folder.name}.lock"):
        running = place.fit(*FRESH)
        running.until(lambda: "another process is packing digits; waiting until it is done" in running.printed)
        assert sets(place) == [f".{folder.name}.lock"]
    running.succeeds()
    assert sets(place) == [f".{folder.name}.lock", folder.name]


@pytest.mark.slow
def test_one_packs_and_the_other_uses_it(place) -> None:
    first = place.fit(*FRESH, fault="packing_is_slow")
    first.until(lambda: list(place.folder.glob("fresh/*.partial")))
    second = place.fit(*FRESH, "--name", "b")
    second.until(lambda: "waiting until it is done" in second.printed)
    assert "packing digits ━" in first.succeeds()
    assert "packing digits ━" not in second.succeeds()
    folder = Digits(root="fresh").folder
    assert sets(place) == [f".{folder.name}.lock", folder.name]


@pytest.mark.slow
def test_who_waits_packs_if_the_other_is_killed(place) -> None:
    first = place.fit(*FRESH, fault="packing_is_slow")
    first.until(lambda: list(place.folder.glob("fresh/*.partial/*")))
    second = place.fit(*FRESH, "--name", "b")
    second.until(lambda: "waiting until it is done" in second.printed)
    os.kill(first.pid, signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    second.succeeds()
    folder = Digits(root="fresh").folder
    assert sets(place) == [f".{folder.name}.lock", folder.name]
    place.fit(*FRESH, "--name", "c").succeeds()  # which proves every checksum
