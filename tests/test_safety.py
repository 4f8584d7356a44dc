"""The sources themselves: nothing in a file, a name or an address can become a command."""

import ast
import re
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest
from torchvision import datasets

import datamodules
import main
from datamodules.base import ImageDataModule
from datamodules.download import download

PROJECT = Path(main.__file__).parent
SETUP = ConfigParser()
SETUP.read(PROJECT / "setup.cfg", encoding="utf-8")
FOLDERS = ("", "benchmarks", "tools", *SETUP["options"]["packages"].split())
SOURCES = [path for folder in FOLDERS for path in sorted((PROJECT / folder).glob("*.py"))]
FORBIDDEN = re.compile(
    r"(eval|exec|compile|__import__|os\.system|os\.popen|os\.exec\w+|os\.spawn\w+|subprocess\.getoutput"
    r"|pickle\.loads?|dill\.\w+|joblib\.load|marshal\.loads?|shelve\.open|pandas\.read_pickle"
    r"|yaml\.(load|load_all|full_load|unsafe_load)|tempfile\.mktemp|ssl\._create_unverified_context)"
)
# a checkpoint for which --weights_only false was typed
EXPECTED = {("checkpoint_io.py", "torch.load")}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call, with the dotted name of what is called."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def dangers(source: str, file: str = "") -> list[str]:
    """What a reader of the source should worry about."""
    found = []
    for name, call in calls(source):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        is_true = {key for key, value in given.items() if not (isinstance(value, ast.Constant) and not value.value)}
        loads_safely = getattr(given.get("weights_only"), "value", None) is True
        if (
            FORBIDDEN.fullmatch(name)
            or (name == "torch.load" and not loads_safely and (file, name) not in EXPECTED)
            or name.endswith("load_state_dict_from_url")
            or name == "torch.hub.load"
        ):
            found.append(name)
        elif "shell" in is_true or "allow_pickle" in is_true:
            found.append(f"{name}({', '.join(sorted(is_true))})")
        elif name.endswith("extractall") and "tar" in name and "filter" not in given:
            found.append(name)
        elif name.startswith("subprocess.") and call.args and isinstance(call.args[0], (ast.JoinedStr, ast.Constant)):
            found.append(f"{name} of a string")
    return found


def test_there_is_something_to_look_at() -> None:
    sources = {path.parent for path in PROJECT.glob("*/*.py")} - {PROJECT / "tests"}
    assert {path.parent for path in SOURCES} == {PROJECT, *sources}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_no_source_runs_what_it_reads(path: Path) -> None:
    assert dangers(path.read_text(encoding="utf-8"), path.name) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "os.system('ls ' + name)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(f'ls {name}')",
        "pickle.load(file)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, weights_only=flag)",
        "np.load(file, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "tar.extractall(folder)",
        "torch.hub.load_state_dict_from_url(url)",
    ],
)
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    assert dangers(source)


DATA_SETS = [
    each
    for each in vars(datamodules).values()
    if isinstance(each, type) and issubclass(each, ImageDataModule) and each.url
]


def test_every_data_set_is_downloaded_by_https_and_has_a_check_sum() -> None:
    assert len(DATA_SETS) >= 4
    digits = {"md5": 32, "sha256": 64}
    for data in DATA_SETS:
        assert data.url.startswith("https://"), data
        of_files = [f"md5:{digest}" for _, digest in datasets.MNIST.resources] if data is datamodules.MNIST else None
        for checksum in of_files or [data.checksum]:
            algorithm, _, digest = checksum.partition(":")
            assert re.fullmatch(rf"[0-9a-f]{{{digits[algorithm]}}}", digest), data


@pytest.mark.parametrize("checksum", ["", "sha256", "sha256:", "crc32:0a1b2c3d", "sha1:" + 40 * "0"])
def test_no_download_without_a_check_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksum: str) -> None:
    monkeypatch.setattr("socket.create_connection", lambda *args, **kwargs: pytest.fail("it connected"))
    with pytest.raises(ValueError, match="checksum"):
        download("https://example.invalid/file.bin", checksum, tmp_path)
