"""A clock that is set, forwards or backwards, while a run goes on or between two parts of it."""

import json
import os

import pytest


def test_the_clock_jumps_while_a_run_goes_on(place) -> None:
    place.fit("--trainer.max_epochs", "2", "--then", "test", fault="the_clock_jumps").succeeds()
    place.start_anew("--trainer.max_epochs", "2").succeeds()
    assert place.same_as_anew()
    assert place.epochs() == [1, 2]
    for name in ("timings.json", "sessions.json"):
        for record in json.loads((place.run / name).read_text()):
            assert 0 < record["seconds"] < 600


@pytest.mark.slow
def test_the_clock_was_another_when_the_files_were_written(place) -> None:
    """The newest is not what has the latest time, and what has no earlier time is not new."""
    place.fit("--trainer.max_epochs", "2").succeeds()
    for number, path in enumerate(sorted(path for path in place.run.rglob("*") if path.is_file())):
        os.utime(path, (4e9, 4e9) if number % 2 else (1e8, 1e8))  # 2096 and 1973
    place.go_on("--trainer.max_epochs", "3", fault="the_clock_jumps").succeeds()
    place.start_anew("--trainer.max_epochs", "3").succeeds()
    assert place.epochs() == [1, 2, 3]
