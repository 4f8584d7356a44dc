"""Features: what is in the file, whatever interrupts the tool, and what is refused."""

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import torch
from torch import nn
from torchvision import models

import main
from callbacks.provenance import commit
from datamodules import Digits, features
from datamodules.features import FeatureReader, FeatureTable
from datamodules.manifest import Manifest
from lightning_modules import Classifier, MiniVGGNet, TorchvisionModel
from lightning_modules.layer_output import LayerOutput, default_layer
from tools import extract_features as tool

PROJECT = Path(main.__file__).parent
SIZE = 8
Extract = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny digits are packed, and ``run`` is the folder of a network that was trained on them for two steps."""
    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        flags = {
            "--name": "first",
            "--data.root": str(folder),
            "--data.image_size": str(SIZE),
            "--trainer.max_epochs": "1",
            "--trainer.limit_train_batches": "2",
            "--trainer.accelerator": "cpu",
            "--trainer.enable_progress_bar": "false",
        }
        config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml")]
        main.run_command(["fit", *config, *(word for pair in flags.items() for word in pair)])
    (folder / "runs/quickstart_digits/first").rename(folder / "run")
    return folder


@pytest.fixture
def extract(call: Extract, root: Path) -> Extract:
    """The tool's exit status, output and error, on the digits."""

    def extracted(out: Path, *arguments: object, backbone: object = root / "run") -> tuple[int, str, str]:
        data = ["--data", "datamodules.Digits", "--data.root", root, "--data.image_size", SIZE]
        return call(tool, out, "--backbone", backbone, "--device", "cpu", *data, *arguments)

    return extracted


def network(root: Path) -> MiniVGGNet:
    """The trained network, built by hand."""
    model = MiniVGGNet(10, SIZE)
    checkpoint = torch.load(root / "run/checkpoints/best.ckpt", weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def digits(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels of a split as they lie in its shard."""
    (file,) = Digits(root=str(root), image_size=SIZE).folder.glob(f"{split}-*.h5")
    with h5py.File(file) as shard:
        return shard["images"][:], shard["labels"][:]


def standardized(root: Path, split: str) -> torch.Tensor:
    train, (images, _) = digits(root, "train")[0].astype(np.float64), digits(root, split)
    x = (images - train.mean(axis=(0, 1, 2))) / train.std(axis=(0, 1, 2))
    return torch.from_numpy(x).float().permute(0, 3, 1, 2)


def test_features_are_the_layers_output(root: Path, tmp_path: Path, extract: Extract) -> None:
    out = tmp_path / "new/features.h5"
    status, told, error = extract(out)
    assert status == 0, error
    assert "1797 rows (train 1212, val 135, test 450) of 256 values, float32, from net.1.7" in told
    reader, net = FeatureReader(out), network(root).net
    for split in ("train", "val", "test"):
        rows = reader.table.rows([split])
        with torch.no_grad():
            expected = net[1](net[0](standardized(root, split))).flatten(1)
        np.testing.assert_allclose(reader.read(rows), expected.numpy(), atol=1e-4)
        np.testing.assert_array_equal(reader.table.labels[rows], digits(root, split)[1])
    with h5py.File(out) as file:
        assert file["features"].dtype == np.float32
        assert file["features"].chunks is None
        assert file["features"].id.get_offset() is not None
        assert list(file["label_names"].asstr()) == list("0123456789")
        split_names = file["split_names"].asstr()[:]
        assert np.unique(split_names[file["split"][:]], return_counts=True)[1].tolist() == [450, 1212, 135]
        made = dict(file.attrs)
    assert (made["backbone"], made["layer"], made["pool"]) == ("MiniVGGNet", "net.1.7", "none")
    assert (made["input_size"], made["normalization"], made["data"]) == (
        SIZE,
        "standardize",
        "datamodules.digits.Digits",
    )
    assert json.loads(made["recipe"]) == Digits(root=str(root), image_size=SIZE).recipe
    assert json.loads(made["versions"])["torch"] == version("torch")
    assert len(made["weights_sha256"]) == 64
    assert made["weights"].endswith("best.ckpt")
    data = Digits(root=str(root), image_size=SIZE)
    assert made["pictures_sha256"] == Manifest.load(data.folder).source_sha256
    assert made["commit"] == (commit(PROJECT) or "unknown")


def test_a_layer_before_one_in_place_a_pool_and_half_precision(root: Path, tmp_path: Path, extract: Extract) -> None:
    flags = ("--layer", "net.0.0", "--splits", "test", "val")
    assert extract(tmp_path / "map.h5", *flags)[0] == 0
    assert extract(tmp_path / "mean.h5", *flags, "--pool", "average", "--dtype", "float16")[0] == 0
    with torch.no_grad():
        expected = network(root).net[0][0](standardized(root, "val")).numpy()
    maps, means = (FeatureReader(tmp_path / f"{name}.h5") for name in ("map", "mean"))
    assert maps.table.split_names == ["val", "test"]
    found = maps.read(maps.table.rows(["val"]))
    assert (found < 0).any()  # the ReLU after it works in place
    np.testing.assert_allclose(found, expected.reshape(135, -1), atol=1e-4)
    assert means.table.dtype == "float16"
    np.testing.assert_allclose(means.read(means.table.rows(["val"])), expected.mean(axis=(2, 3)), atol=2e-3)


def test_an_experiments_pictures_are_scaled_but_not_augmented(root: Path, tmp_path: Path, extract: Extract) -> None:
    config = tmp_path / "experiment.yaml"
    settings = {"transforms": [{"class_path": "albumentations.RandomCrop", "init_args": {"height": 4, "width": 4}}]}
    config.write_text(json.dumps({"data": {"class_path": "datamodules.Digits", "init_args": settings}}))
    flags = ("--config", config, "--layer", "net.relu", "--splits", "val", "--data.normalization", "unit")
    # --data.transforms would be lost where --data names another class than the experiment
    status, _, error = extract(tmp_path / "out.h5", *flags, backbone="resnet18")
    assert status == 0, error
    reader = FeatureReader(tmp_path / "out.h5")
    assert reader.table.made["input_size"] == 4
    torch.manual_seed(42)
    net = TorchvisionModel(1000, 4, "resnet18").net.eval()
    halves = digits(root, "val")[0].reshape(135, 4, 2, 4, 2, 3).astype(np.float64).mean(axis=(2, 4))
    with torch.no_grad():
        images = torch.from_numpy(np.round(halves) / 255).float().permute(0, 3, 1, 2)
        expected = net.relu(net.bn1(net.conv1(images))).flatten(1)
    np.testing.assert_allclose(reader.read(np.arange(135)), expected.numpy(), atol=0.02)


@pytest.mark.parametrize("experiment", sorted((PROJECT / "experiments").glob("features_*.yaml")), ids=lambda e: e.stem)
def test_settings_of_the_published_features(experiment: Path) -> None:
    data = tool.data_of(experiment, ["--data.batch_size", "8"])
    assert (data.image_size, data.input_size, data.normalization, data.batch_size) == (224, 224, "imagenet", 8)
    assert data.name in experiment.stem
    assert not data.transforms


@pytest.mark.parametrize("flag", ["--data=datamodules.Digits", "--data.class_path=datamodules.Digits"])
def test_pictures_may_be_named_by_a_flag_alone(flag: str) -> None:
    assert isinstance(tool.data_of(None, [flag]), Digits)


def test_the_checksum_is_of_values_and_their_names() -> None:
    def of(*named: tuple[str, float]) -> str:
        return tool.checksum(nn.ParameterDict([(name, torch.full((2,), value)) for name, value in named]))

    whole = of(("a", 1.0), ("b", 2.0))
    assert whole == of(("b", 2.0), ("a", 1.0))
    assert whole != of(("a", 1.0), ("b", 3.0))
    assert whole != of(("c", 1.0), ("d", 2.0))


def test_weights_from_a_file(tmp_path: Path, extract: Extract) -> None:
    state = models.squeezenet1_1().state_dict()
    torch.save(state, tmp_path / "weights.pth")
    names = ("one", "two", "random")
    for name, weights in zip(names, ([tmp_path / "weights.pth"], [tmp_path / "weights.pth"], []), strict=True):
        flags = ["--data.image_size", 32, "--splits", "val", "--seed", len(name), "--layer", "net.features.0"]
        assert extract(tmp_path / f"{name}.h5", *flags, *(["--weights", *weights] if weights else []),
                       backbone="squeezenet1_1")[0] == 0  # fmt: skip
    one, two, random = (FeatureReader(tmp_path / f"{name}.h5") for name in names)
    rows = np.arange(135)
    np.testing.assert_array_equal(one.read(rows), two.read(rows))
    assert one.table.made["weights_sha256"] == two.table.made["weights_sha256"]
    assert not np.array_equal(one.read(rows), random.read(rows))
    assert one.table.made["weights_sha256"] != random.table.made["weights_sha256"]


@pytest.mark.parametrize(
    ("architecture", "size", "layer", "values"),
    [
        ("vgg16", 224, "net.avgpool", 25_088),
        ("resnet50", 224, "net.avgpool", 2_048),
        ("squeezenet1_1", 224, "net.classifier.0", 512 * 13 * 13),
        ("vit_b_16", 224, "net.encoder.ln", 197 * 768),
    ],
)
def test_the_layer_that_is_taken_by_default(architecture: str, size: int, layer: str, values: int) -> None:
    with torch.device("meta"):
        model = TorchvisionModel(1000, size, architecture).eval()
        assert default_layer(model) == layer
        assert LayerOutput(model, layer, "none")(torch.zeros(2, 3, size, size)).shape == (2, values)
        if architecture == "vit_b_16":
            assert LayerOutput(model, layer, "average")(torch.zeros(2, 3, size, size)).shape == (2, 768)


def test_an_interrupted_file_is_finished_to_the_same_bytes(
    tmp_path: Path, extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert extract(tmp_path / "whole.h5")[0] == 0
    cut, to_disk, calls = tmp_path / "cut.h5", features._to_disk, []

    def fail(file: h5py.File) -> None:
        """A kill after a batch was written and before it counts: the layout is the first call, a batch each other."""
        calls.append(file)
        if len(calls) == 22:
            file["features"][1300:1310] = 7  # half of it
            raise OSError("killed")
        to_disk(file)

    with monkeypatch.context() as patch:
        patch.setattr(features, "_to_disk", fail)
        assert extract(cut)[0] == 1
    assert FeatureTable.load(cut).done == 19 * 64 - 4 + 64  # 19 batches of train, the last with 60; one of val
    with pytest.raises(ValueError, match=r"cut\.h5 is not finished: 1276 of 1797 rows"):
        FeatureReader(cut)
    assert (tmp_path / "whole.h5").read_bytes() != cut.read_bytes()
    seen = []
    keep = features.FeatureWriter.append
    with monkeypatch.context() as patch:
        patch.setattr(tool.FeatureWriter, "append", lambda self, rows: (seen.append(len(rows)), keep(self, rows)))
        assert extract(cut)[0] == 0
    assert sum(seen) == 1797 - 1276
    assert (tmp_path / "whole.h5").read_bytes() == cut.read_bytes()
    assert extract(cut)[0] == 0  # nothing is left to do
    assert (tmp_path / "whole.h5").read_bytes() == cut.read_bytes()


def test_a_file_made_otherwise_is_refused_and_left_alone(root: Path, tmp_path: Path, extract: Extract) -> None:
    out = tmp_path / "features.h5"
    assert extract(out, "--splits", "val")[0] == 0
    before = out.read_bytes()
    for flags, told in (
        (["--splits", "val", "--layer", "net.1.0"], "layer net.1.7 there and net.1.0 here"),
        (["--splits", "val", "--pool", "average"], "pool none there and average here"),
        (["--splits", "val", "--dtype", "float16"], "float32 (135, 256) there and float16 (135, 256) here"),
        (["--splits", "test"], "(135, 256) there and float32 (450, 256) here"),
    ):
        status, _, error = extract(out, *flags)
        assert (status, out.read_bytes()) == (1, before)
        assert f"{out} holds features made otherwise" in error
        assert told in error
        assert "delete it or name another file" in error
    out.write_bytes(before[: len(before) // 2])
    assert "is damaged, or is no feature file" in extract(out, "--splits", "val")[2]
    out.write_text("text")
    assert "is damaged, or is no feature file" in extract(out, "--splits", "val")[2]


def test_only_a_file_of_the_same_rows_is_continued(tmp_path: Path) -> None:
    path, made = tmp_path / "f.h5", {"layer": "net.1", "commit": "one", "weights": "best.ckpt"}
    table = FeatureTable((2, 3), "float32", np.array([0, 1]), ["a", "b"], np.array([0, 1]), ["train", "val"], made)
    features.create(path, table)
    features.require_same_settings(path, replace(table, made=made | {"commit": "two", "weights": "copy.ckpt"}))
    for other in (
        {"labels": np.array([1, 0])},
        {"split": np.array([1, 0])},
        {"label_names": ["a", "c"]},
        {"split_names": ["train", "test"]},
        {"made": made | {"pool": "average"}},
        {"made": {}},
    ):
        with pytest.raises(ValueError, match="holds features made otherwise"):
            features.require_same_settings(path, replace(table, **other))


def test_a_file_whose_parts_differ_in_length_is_refused(tmp_path: Path) -> None:
    table = FeatureTable((2, 3), "float32", np.zeros(2), ["a"], np.zeros(2), ["train"], {})
    for name, value in (("labels", np.zeros(3, int)), ("split", np.zeros(3, int)), ("rows_done", 3), ("rows_done", -1)):
        features.create(tmp_path / "f.h5", table)
        with h5py.File(tmp_path / "f.h5", "r+") as file:
            del file[name]
            file[name] = value
        with pytest.raises(ValueError, match="its parts differ in length"):
            FeatureTable.load(tmp_path / "f.h5")


def test_mistakes_are_named(root: Path, tmp_path: Path, extract: Extract) -> None:
    out, damaged = tmp_path / "features.h5", tmp_path / "damaged.ckpt"
    damaged.write_bytes((root / "run/checkpoints/best.ckpt").read_bytes()[:1000])
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    (tmp_path / "twice.yaml").write_text("data: {}\ndata: {}\n")
    (tmp_path / "model.yaml").write_text("model: {}\n")
    for flags, backbone, told in (
        (["--layer", "net.1.8"], root / "run", "the network has no layer 'net.1.8'; near are net.1.7, "),
        (["--layer", "net.4", "--pool", "average"], root / "run", "net.4 gives vectors, which have nothing to average"),
        (["--splits", "train", "holdout"], root / "run", "no split 'holdout'; there are train, val, test"),
        (
            ["--splits", "val", "--data.validate_on_test", "true"],
            root / "run",
            "no split 'val': the test split validates",
        ),
        (["--data.image_size", 16], root / "run", "takes pictures of 8 pixels, not 16; take --data.image_size 8"),
        (["--data.normalization", "unit"], root / "run", "normalized as standardize, not unit; take --data.normali"),
        (
            ["--weights", "DEFAULT"],
            "resnet18",
            "resnet18 were trained on pictures normalized as imagenet, not standard",
        ),
        (["--weights", "DEFAULT"], root / "run", "holds its own weights; leave out --weights"),
        (["--data.colour", 3], root / "run", "colour"),
        (["--config", tmp_path / "none.yaml"], root / "run", "none.yaml is no experiment's YAML file"),
        (["--config", tmp_path / "twice.yaml"], root / "run", "twice.yaml has data in lines 1 and 2"),
        (["--config", tmp_path / "model.yaml"], root / "run", "it has no section data"),
        ([], tmp_path / "none", "none is neither a checkpoint nor a run's folder"),
        ([], tmp_path / "none.ckpt", "none.ckpt is neither a checkpoint nor a run's folder"),
        ([], tmp_path, "has no checkpoints/best.ckpt"),
        ([], damaged, "damaged.ckpt is damaged"),
        ([], tmp_path / "bare.ckpt", "bare.ckpt does not say which network it holds"),
        ([], "resnet19", "torchvision has no classifier 'resnet19'; it has resnet18"),
        (["--weights", tmp_path / "none.pth"], "squeezenet1_1", "none.pth is no file"),
    ):
        extra = ["--data.image_size", 32] if backbone == "squeezenet1_1" else []
        status, _, error = extract(out, *flags, *extra, backbone=backbone)
        assert status == 1
        assert told in error, (told, error)
    assert not out.exists()


def test_pictures_must_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["tools/extract_features.py", str(tmp_path / "o.h5"), "--backbone", "resnet18"])
    with pytest.raises(SystemExit, match="name the pictures"):
        tool.main()


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    table = FeatureTable((4, 2), "float16", np.zeros(4), ["a"], np.zeros(4), ["train"], {})
    features.create(tmp_path / "half.h5", table)
    with features.FeatureWriter(tmp_path / "half.h5") as writer:
        writer.append(np.full((2, 2), 65504, np.float32))
        with pytest.raises(ValueError, match="from 2 on exceeds float16; take --dtype float32"):
            writer.append(np.full((2, 2), 70000, np.float32))
        with pytest.raises(ValueError, match="is not finite; look at the weights"):
            writer.append(np.full((2, 2), np.nan, np.float32))
    assert FeatureTable.load(tmp_path / "half.h5").done == 2


class Wide(Classifier):
    """Many features at little cost."""

    def __init__(self) -> None:
        super().__init__(10, SIZE)
        self.net = nn.Sequential(nn.Upsample(scale_factor=16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))


def test_memory_stays_flat(root: Path, tmp_path: Path, extract: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    """350 MB of features, written with less than a quarter of that."""
    monkeypatch.setattr(tool, "network_of", lambda *_: (Wide().eval(), {"backbone": "Wide"}))
    flags = ("--layer", "net.0", "--data.batch_size", "16")
    assert extract(tmp_path / "warm.h5", *flags, "--splits", "val")[0] == 0
    process, used, running = psutil.Process(), [], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not running.is_set():
            used.append(process.memory_info().rss - before)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert extract(tmp_path / "wide.h5", *flags)[0] == 0
    finally:
        running.set()
        watcher.join()
    size = (tmp_path / "wide.h5").stat().st_size
    assert size > 1797 * 3 * 128 * 128 * 4
    assert max(used) < size / 4
