"""What all tools share at the terminal: how their flags are read, where tables go, how an error ends a tool."""

import argparse
import io
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console

from messages import MEMORY, message, quieten


def command_line(description: str) -> argparse.ArgumentParser:
    """A parser of flags that are written in full; ``--help`` shows the description as it is laid out."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def at_least(smallest: int) -> Callable[[str], int]:
    """The type of a flag that is a whole number, and none that is smaller."""

    def integer(text: str) -> int:
        if int(text) < smallest:
            raise argparse.ArgumentTypeError(f"{text} is less than {smallest}")
        return int(text)

    return integer


def as_typed(script: str) -> str:
    """The command that runs, of a script of this project; of absolute paths their last part."""
    flags = [Path(flag).name if Path(flag).is_absolute() else flag for flag in sys.argv[1:]]
    return shlex.join(["python", "/".join(Path(script).resolve().parts[-2:]), *flags])


def screen(file: TextIO | None = None, width: int = 120) -> Console:
    """For tables as wide as the terminal, or of so many columns in a file; standard output if none is given.

    Text is shown as it is: names of classes and files may have brackets. What wants a style is a ``rich.text.Text``.
    """
    file = file or sys.stdout
    return Console(file=file, width=None if file.isatty() else width, markup=False, emoji=False, highlight=False)


@contextmanager
def plainly(memory: str = MEMORY, extra: str = "") -> Iterator[None]:
    """Let an error end the tool with its message alone, and ctrl + c and SIGTERM with nothing.

    Both let the tool write what it has so far, where it does that.

    Python's development mode, ``python -X dev tools/NAME.py``, shows the traceback.

    Args:
        memory: what to do where it is not enough.
        extra: of this project's installation, with the packages that the tool needs.
    """
    quieten()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text, and results would be lost
    if ends_at_once := signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except subprocess.CalledProcessError as error:  # that process has said why
        sys.exit(error.returncode)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        if extra and isinstance(error, ModuleNotFoundError):
            sys.exit(f"error: {error.name} is not installed; pip install -e '.[{extra}]'")
        sys.exit(message(error, memory))
    finally:
        if ends_at_once:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
