"""What the tests of tools with several runs share."""

from collections.abc import Iterator, Sequence

import pytest

import fit_and_test
import main


@pytest.fixture(scope="module")
def commands() -> Iterator[list[Sequence[str]]]:
    """The commands of runs, which a tool then runs in this process: a process of its own takes ten seconds to start."""
    given: list[Sequence[str]] = []

    def run_main(arguments: Sequence[str], *rest: object) -> None:
        given.append(arguments)
        main.run_command(list(arguments))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_and_test, "run_main", run_main)
        yield given
