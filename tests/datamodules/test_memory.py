"""A training split several times larger than the memory that the process may take."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from datamodules.memory import free_memory

SHARDS, SHARD_ROWS, SIZE = 25, 2730, 64  # shards of 32 MiB
LIMIT = 192 * 2**20

TRAINING = """
import json, resource, sys
from pathlib import Path
import psutil, torch
from pytorch_lightning import Callback, Trainer
from datamodules import BatchAugment, ImageDataModule
from datamodules.normalization import Normalization
from datamodules.shards import ShardDataset
from lightning_modules import Classifier

torch.set_num_threads(1)
folder, limit = Path(sys.argv[1]), int(sys.argv[2])

class Normalized:
    shift, scale = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    lines = Normalization.lines

class Large(ImageDataModule):
    name, classes, default_image_size = "large", tuple("01"), 64
    def prepare_data(self):
        pass
    def setup(self, stage):
        self.splits = {"train": ShardDataset(sorted(folder.glob("*.h5")))}
        self._normalize = Normalized()

class Mean(Classifier):
    def __init__(self):
        super().__init__(2, 64)
        self.net = torch.nn.Sequential(torch.nn.AvgPool2d(64), torch.nn.Flatten(), torch.nn.Linear(3, 2))

class Watch(Callback):
    seen = []
    steps = 0
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        Watch.steps += 1
        if batch_idx % 10 == 0:
            memory = psutil.Process().memory_info()
            Watch.seen.append((memory.vms, memory.rss))

def fit(data, **flags):
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Watch()],
                      enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
                      limit_val_batches=0, **flags)
    trainer.fit(Mean(), datamodule=data)

data = Large(batch_augment=BatchAugment(flip=0.5, padding=4), batch_size=128, shuffle=sys.argv[3])
fit(data, limit_train_batches=2)  # libraries and threads are loaded
Watch.seen, Watch.steps = [], 0
data = Large(batch_augment=BatchAugment(flip=0.5, padding=4), batch_size=128, shuffle=sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + limit,) * 2)
fit(data)
print(json.dumps({"steps": Watch.steps, "seen": Watch.seen, "shuffle": data.shuffle}))
"""


def make_sparse(path: Path) -> None:
    """A shard whose pictures take no room on the disk."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w") as file:
        shape = (SHARD_ROWS, SIZE, SIZE, 3)
        h5py.h5d.create(file.id, b"images", h5py.h5t.STD_U8LE, h5py.h5s.create_simple(shape), layout)
        file["labels"] = np.arange(SHARD_ROWS) % 2


def train(folder: Path, shuffle: str) -> subprocess.CompletedProcess:
    for number in range(SHARDS):
        make_sparse(folder / f"train-{number:05d}.h5")
    command = [sys.executable, "-c", TRAINING, str(folder), str(LIMIT), shuffle]
    project = Path(__file__).parents[2]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is enforced on Linux only")
def test_an_epoch_in_a_quarter_of_the_memory(tmp_path: Path) -> None:
    done = train(tmp_path, "auto")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["shuffle"] == "blocks"
    assert result["steps"] == SHARDS * SHARD_ROWS // 128
    assert SHARDS * SHARD_ROWS * SIZE * SIZE * 3 >= 4 * LIMIT
    for values in zip(*result["seen"][len(result["seen"]) // 5 :], strict=True):  # virtual and resident
        assert max(values) - min(values) < LIMIT / 2


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is enforced on Linux only")
def test_the_limit_is_a_limit(tmp_path: Path) -> None:
    """Shuffling over all rows maps all shards, and fails under the same limit."""
    done = train(tmp_path, "full")
    assert done.returncode != 0
    assert "memory" in done.stderr.lower()


def test_free_memory_is_plausible() -> None:
    assert 2**20 < free_memory() < 2**50


def test_a_containers_limit_counts_but_not_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.memory.CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 2000000\nfile 400000\nfile_dirty 100\n")
    assert free_memory() == 900_000
    (tmp_path / "memory.current").write_text("3500000\n")
    assert free_memory() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 2**20
