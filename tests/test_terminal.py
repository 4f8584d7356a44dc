"""How tools end."""

import argparse
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.table import Table

import terminal
from terminal import as_typed, at_least, command_line, plainly, screen

PROJECT = Path(terminal.__file__).parent


def test_an_error_is_told_in_a_sentence():
    with pytest.raises(SystemExit, match="^error: the picture is torn$"), plainly():
        raise ValueError("the picture is torn")


def test_too_little_memory_has_the_remedy_of_the_tool():
    told = "^error: memory is not enough; take a smaller --tile$"
    with pytest.raises(SystemExit, match=told), plainly(memory="take a smaller --tile"):
        raise MemoryError


def test_a_package_that_is_missing():
    told = r"^error: onnx is not installed; pip install -e '.\[export\]'$"
    with pytest.raises(SystemExit, match=told), plainly(extra="export"):
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")


def test_a_process_that_failed_has_spoken_itself():
    with pytest.raises(SystemExit) as ended, plainly():
        subprocess.run([sys.executable, "-c", "raise SystemExit(7)"], check=True)
    assert ended.value.code == 7


def test_ctrl_c_ends_without_words():
    with pytest.raises(SystemExit) as ended, plainly():
        raise KeyboardInterrupt
    assert ended.value.code == 130


def test_sigterm_ends_without_words_after_what_the_tool_still_writes():
    written = []
    with pytest.raises(SystemExit) as ended, plainly():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            written.append("so far")
    assert ended.value.code == 143
    assert written == ["so far"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_sigterm_that_others_handle_stays_theirs():
    outside = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with plainly():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, outside)


def test_the_exit_of_a_tool_stays_its_own():
    with pytest.raises(SystemExit) as ended, plainly():
        sys.exit(3)
    assert ended.value.code == 3


def test_developers_get_the_traceback(monkeypatch):
    monkeypatch.setattr(terminal.sys, "flags", SimpleNamespace(dev_mode=True))
    with pytest.raises(ZeroDivisionError), plainly():
        1 / 0  # noqa: B018


def test_flags_are_written_in_full(capsys):
    parser = command_line("One.\n\n  Two, as it is laid out.")
    parser.add_argument("--pictures", type=int)
    assert parser.parse_args(["--pictures", "3"]) == argparse.Namespace(pictures=3)
    with pytest.raises(SystemExit):
        parser.parse_args(["--pic", "3"])
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "\n  Two, as it is laid out." in capsys.readouterr().out


@pytest.mark.parametrize(("given", "told"), [("1", "1 is less than 2"), ("-3", "-3 is less than 2"), ("2.5", "'2.5'")])
def test_a_whole_number_that_is_not_smaller(given: str, told: str, capsys):
    parser = command_line("")
    parser.add_argument("--folds", type=at_least(2))
    assert parser.parse_args(["--folds", "2"]).folds == 2
    with pytest.raises(SystemExit):
        parser.parse_args(["--folds", given])
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "errors", "written"),
    [
        ("utf-8", "strict", b"\xc3\xa9 \\udce9"),
        ("ascii", "strict", b"\\xe9 \\udce9"),
        ("utf-8", "surrogateescape", b"\xc3\xa9 \xe9"),
    ],
)
def test_what_cannot_be_encoded_ends_no_tool(
    encoding: str, errors: str, written: bytes, monkeypatch: pytest.MonkeyPatch
):
    bytes_written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_written, encoding, errors))
    with plainly():
        print("é", os.fsdecode(b"\xe9"), end="", flush=True)
    assert bytes_written.getvalue() == written


@pytest.mark.parametrize("name", ["cat [tabby]", "cat [/tabby]", "[bold]", r"a\[b]", ":cat:"])
def test_names_are_no_markup(name: str):
    file = io.StringIO()
    table = Table(name, title=f"{name} in a title")
    table.add_row(f"{name} in a cell")
    screen(file).print(table, name)
    assert file.getvalue().count(name) == 4
    assert f"{name} in a title" in file.getvalue()
    assert f"{name} in a cell" in file.getvalue()


def test_a_file_has_columns_of_its_own():
    file = io.StringIO()
    screen(file, width=20).print("x" * 30)
    assert file.getvalue().split() == ["x" * 20, "x" * 10]


def test_a_command_as_it_was_typed_tells_no_folder_of_the_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--source", "/home/a/raw", "--on", "two words", "runs/b"])
    assert as_typed(terminal.__file__) == f"python {PROJECT.name}/terminal.py --source raw --on 'two words' runs/b"
