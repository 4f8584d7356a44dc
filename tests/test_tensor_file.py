"""Files of weights that try to run code, and damaged ones: each refused in its own words, wherever one is read."""

import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import main
from callbacks import WholeCheckpointIO
from lightning_modules import FineTuner, MiniVGGNet
from lightning_modules.saved import saved_network
from lightning_modules.torchvision_model import state_dict_of

Reader = Callable[[Path], object]


def fine_tuner(path: Path) -> None:
    FineTuner(10, 32, MiniVGGNet(10, 32), weights=str(path)).load_pretrained()


READERS: dict[str, Reader] = {
    "resume": lambda path: WholeCheckpointIO().load_checkpoint(str(path)),
    "tools": saved_network,
    "torchvision": state_dict_of,
    "fine-tuning": fine_tuner,
}


class Evil:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def zipped(content: object, path: Path) -> None:
    torch.save(content, path)


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def plain_2(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("write", [zipped, legacy, plain, plain_2])
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_no_code_runs(tmp_path: Path, reader: Reader, write: Callable[[object, Path], None]) -> None:
    path, target = tmp_path / "evil.ckpt", tmp_path / "owned"
    write({"state_dict": {}, "config": Evil(target)}, path)
    with pytest.raises(ValueError) as raised:
        reader(path)
    assert not target.exists()
    said = str(raised.value)
    assert "evil.ckpt was not loaded, as that could run code" in said
    assert ("posix.mkdir" in said) == (write is not plain)
    assert "damaged" not in said
    assert "weights_only" not in said  # torch's own advice is to load it all the same
    pickle.loads(pickle.dumps(Evil(target)))
    assert target.exists()  # the attack is one


def test_a_whole_module_is_named(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        state_dict_of(tmp_path / "module.pth")


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    place = content.index(torch.full((50,), 1.5).numpy().tobytes()) + 100  # inside a tensor
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": cut,
    "one bit of a weight": flipped,
    "a page of the network": lambda content: b"<!DOCTYPE html>\n<title>404</title>",
    "text": lambda content: b"hello world",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_damage_is_called_damage(tmp_path: Path, reader: Reader, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"weight": torch.full((50,), 1.5)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged, or is not a checkpoint \(.+\); \w+") as raised:
        reader(path)
    assert "run code" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("reader", [READERS[name] for name in ("tools", "torchvision", "fine-tuning")])
def test_a_file_of_something_else(tmp_path: Path, reader: Reader) -> None:
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match=r"list\.ckpt (is not a checkpoint|holds no state dict)"):
        reader(tmp_path / "list.ckpt")


def test_another_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as file:
        file.writestr("a.jpg", "a")
    with pytest.raises(ValueError, match=r"pictures\.zip is damaged, or is not a checkpoint"):
        state_dict_of(tmp_path / "pictures.zip")


def test_the_disk_is_not_called_damage(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        READERS["resume"](tmp_path)


@pytest.mark.parametrize("command", ["test", "fit"])
def test_the_command_refuses_in_a_few_lines(
    command: str, tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    zipped({"state_dict": Evil(tmp_path / "owned")}, tmp_path / "evil.ckpt")
    config = Path(main.__file__).parent / "experiments/quickstart_digits.yaml"
    machine = ["--data.root", str(shards), "--trainer.accelerator", "cpu"]
    flags = [command, "--config", str(config), "--ckpt_path", "evil.ckpt", *machine]
    monkeypatch.setattr(sys, "argv", ["main.py", *flags])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    printed = capsys.readouterr().err
    assert stopped.value.code == 1
    error = printed[printed.index("error: ") :].strip()
    assert "evil.ckpt was not loaded, as that could run code: it asks for posix.mkdir" in error
    assert "delete it" in error
    assert len(error.splitlines()) <= 5
    assert not (tmp_path / "owned").exists()
