"""MNIST from its official files, and from a server."""

import gzip
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from datamodules import MNIST

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def test_official_files(raw: Path, tmp_path: Path) -> None:
    data = MNIST(root=str(tmp_path), source=str(raw), val_fraction=0.25)
    data.prepare_data()
    data.setup("test")
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 90, "val": 30, "test": 40}
    images, labels = data.splits["test"].__getitems__(list(range(40)))
    assert labels.tolist() == list(range(10)) * 4
    pixels = np.frombuffer((raw / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    np.testing.assert_array_equal(images[..., 1].numpy(), pixels.reshape(40, 28, 28))


def test_download(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = tmp_path / "served"
    served.mkdir()
    resources = []
    for file in FILES:
        (served / f"{file}.gz").write_bytes(gzip.compress((raw / "MNIST/raw" / file).read_bytes()))
        resources.append((f"{file}.gz", hashlib.md5((served / f"{file}.gz").read_bytes()).hexdigest()))
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(MNIST, "url", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    try:
        data = MNIST(root=str(tmp_path / "data"))
        data.prepare_data()
    finally:
        server.shutdown()
        server.server_close()
    data.setup("test")
    assert len(data.splits["train"]) == 108
    assert sorted(path.name for path in (tmp_path / "data/raw/MNIST/raw").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("harm", ["missing", "other"])
def test_files_that_are_not_mnist(raw: Path, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file).write_bytes((raw / "MNIST/raw" / file).read_bytes())
    if harm == "missing":
        (folder / FILES[1]).unlink()
        said = "train-labels-idx1-ubyte is missing"
    else:
        (folder / FILES[3]).write_bytes(b"not at all")
        said = r"the files t10k-\* in .* are not those of MNIST"
    with pytest.raises(ValueError, match=said):
        MNIST(root=str(tmp_path / "data"), source=str(tmp_path)).prepare_data()
