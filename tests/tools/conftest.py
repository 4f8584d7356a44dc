"""Tools are called in the process of the tests, since one of their own takes ten seconds to start."""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import fit_and_test
import main


class Called(NamedTuple):
    """What a tool gave."""

    status: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Called]:
    """Calls a tool in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def called(tool: ModuleType, *args: object, given: bytes = b"") -> Called:
        monkeypatch.setattr(sys, "argv", [f"tools/{tool.__name__}.py", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        capsys.readouterr()
        status: int | str = 0
        try:
            tool.main()
        except SystemExit as ended:
            status = ended.code or 0
        out, err = capsys.readouterr()
        if isinstance(status, str):  # what Python prints of it
            status, err = 1, f"{err}{status}\n"
        assert "Traceback" not in err
        return Called(status, out, err)

    return called


@pytest.fixture(scope="module")
def commands() -> Iterator[list[Sequence[str]]]:
    """The commands of runs, which a tool then runs in this process, too."""
    given: list[Sequence[str]] = []

    def run_main(arguments: Sequence[str], *rest: object) -> None:
        given.append(arguments)
        main.run_command(list(arguments))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_and_test, "run_main", run_main)
        yield given
