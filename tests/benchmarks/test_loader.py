"""The benchmark of the loaders: each does the work that it is clocked for, and the figures come out."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import loader
from benchmarks.loader_peers import OURS, Batches, Output, Peer
from benchmarks.loader_workloads import BATCH, WORKLOADS, Pictures, Workload, prepare
from datamodules.samples import Samples

AUGMENTING = [OURS, *(peer for peer in loader.PEERS if loader.installed(peer) and not peer.whole)]
NAMES = [workload.name for workload in WORKLOADS]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder where each workload's pictures are made up once."""
    return tmp_path_factory.mktemp("cache")


def one_picture(workload: Workload, folder: Path) -> Pictures:
    """Pictures of a workload that are all the same."""
    picture = np.random.default_rng(1).integers(0, 256, (1, workload.stored, workload.stored, 3), np.uint8)
    copies = Samples(np.repeat(picture, BATCH, axis=0), np.arange(BATCH) % 2)
    return prepare(replace(workload, read=lambda source: copies), folder, BATCH, folder)


def batches_of(peer: Peer, pictures: Pictures, output: Output) -> Batches:
    peer.prepare(pictures)
    return peer.batches(pictures, output, int(peer.unit == "thread"))


@pytest.mark.parametrize("peer", AUGMENTING, ids=[peer.name for peer in AUGMENTING])
@pytest.mark.parametrize("workload", WORKLOADS, ids=NAMES)
def test_each_loader_gives_checked_pictures(peer: Peer, workload: Workload, cache: Path) -> None:
    pictures = prepare(workload, None, BATCH, cache)
    shapes = (BATCH, 3, workload.size, workload.size), (BATCH, workload.size, workload.size, 3)
    for output in peer.outputs:
        batches = batches_of(peer, pictures, output)
        for _ in range(2):  # more than an epoch
            loader.check(*next(batches), shapes, getattr(torch, output), pictures)


@pytest.mark.parametrize("peer", AUGMENTING, ids=[peer.name for peer in AUGMENTING])
def test_each_loader_crops_and_flips_at_random(peer: Peer, cache: Path) -> None:
    pictures = one_picture(WORKLOADS[0], cache)
    (padded,) = np.pad(pictures.images[:1], ((0, 0), (4, 4), (4, 4), (0, 0)))
    crops = [padded[top : top + 32, left : left + 32] for top in range(9) for left in range(9)]
    views = {np.ascontiguousarray(view).tobytes() for crop in crops for view in (crop, crop[:, ::-1])}
    output = peer.outputs[-1]
    images = next(batches_of(peer, pictures, output))[0].numpy()
    if images.shape[1] == 3:
        images = images.transpose(0, 2, 3, 1)
    if output == "float32":
        images = np.round(images * pictures.std + pictures.mean).astype(np.uint8)
    seen = {np.ascontiguousarray(image).tobytes() for image in images}
    assert seen <= views
    assert len(seen) > 60  # of 162 views that 128 draws could show; 89 are expected


@pytest.mark.parametrize("peer", AUGMENTING, ids=[peer.name for peer in AUGMENTING])
def test_each_loader_warps_at_random(peer: Peer, cache: Path) -> None:
    pictures = one_picture(WORKLOADS[1], cache)
    images = next(batches_of(peer, pictures, peer.outputs[-1]))[0].numpy()
    assert len({image.tobytes() for image in images}) == BATCH


def test_batches_without_pictures_are_refused(cache: Path) -> None:
    pictures = prepare(WORKLOADS[0], None, BATCH, cache)
    shapes, labels = [(BATCH, 3, 32, 32)], torch.zeros(BATCH, dtype=torch.int64)
    noise = torch.randn(BATCH, 3, 32, 32) + torch.linspace(-0.5, 0.5, BATCH).view(-1, 1, 1, 1)
    loader.check(noise, labels, shapes, torch.float32, pictures)
    wrong = {
        "not pictures": (torch.zeros(BATCH, 3, 32, 32), labels),
        "0.00 between pictures": (noise[:1].expand(BATCH, -1, -1, -1), labels),
        "float64": (noise.double(), labels),
        "64, 32": (torch.randn(BATCH, 3, 64, 32), labels),
        "labels are": (noise, labels[1:]),
        "labels run": (noise, labels + 10),
    }
    for message, batch in wrong.items():
        with pytest.raises(ValueError, match=message):
            loader.check(*batch, shapes, torch.float32, pictures)


def test_a_source_without_the_raw_files_is_refused(tmp_path: Path) -> None:
    for workload in WORKLOADS[1:]:
        with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*{workload.name}"):
            prepare(workload, tmp_path, BATCH, tmp_path / "cache")
    with pytest.raises(ValueError, match="data_batch_1"):
        prepare(WORKLOADS[0], tmp_path, BATCH, tmp_path / "cache")


def test_quick_run_writes_ratios(tmp_path: Path) -> None:
    program, file = Path(loader.__file__), tmp_path / "ratios.json"
    chosen = ["--workloads", "cifar10", "--peers", "image_folder", "gather", "--cache", str(tmp_path)]
    command = [sys.executable, str(program), "--quick", "--json", str(file), *chosen]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    (workload,) = json.loads(file.read_text())["ratios"].items()
    assert workload[0] == "cifar10"
    assert set(workload[1]) == {"image_folder", "gather"}
    assert all(0 < ratio < 1e4 for ratio in workload[1].values())
    assert workload[1]["image_folder"] > 10  # a hundred and more where nothing else runs
    assert workload[1]["gather"] < workload[1]["image_folder"]  # a bare copy beats decoding files
    rows = [line.split(" | ") for line in run.stdout.splitlines() if "images/s" not in line and line.startswith("| ")]
    assert [row[2] for row in rows if row[0].startswith("| ours")] == ["1"]
    assert len(rows) == 1 + 3  # the line under the header, and three loaders
